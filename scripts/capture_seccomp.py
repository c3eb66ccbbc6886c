#!/usr/bin/env python3
"""Take the seccomp filters that dockerd and its runtime install, as test data for crates/seccomp.

    DOCKER_HOST=unix:///path/of/dockerd.sock capture_seccomp.py [CASE...]

For every case a container is started by that engine and all filters of its process are read with
PTRACE_SECCOMP_GET_FILTER (root, and no filter on this script). Written are CASE.bpf, the instructions as
the kernel has them (8 bytes each, little endian), and captures.json with what they were taken under.
"""
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import mkimage

DATA = pathlib.Path(__file__).resolve().parents[1] / "crates/seccomp/tests/data"
IMAGE = "gantry-capture-busybox:latest"
# Case: its profile ("default" is the engine's own) and the options of `docker run`.
CASES = {
    "default": ("default", []),
    "default-admin": ("default", ["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--cap-add", "SYSLOG"]),
    "default-all": ("default", ["--cap-add", "ALL"]),
    "default-none": ("default", ["--cap-drop", "ALL"]),
    "arguments": ("arguments.json", []),
    "actions": ("actions.json", []),
    "actions-admin": ("actions.json", ["--cap-add", "SYS_ADMIN"]),
    "kill-default": ("kill-default.json", []),
    "log-default": ("log-default.json", []),
}
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_SECCOMP_GET_FILTER = 17, 0x4206, 0x4207, 0x420C
WALL = 0x40000000
INSTRUCTION_BYTES = 8

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, address=None, data=None):
    result = libc.ptrace(request, pid, address, data)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def filters_of(pid):
    """The programs of a process, the one installed last first."""
    ptrace(PTRACE_SEIZE, pid)
    try:
        ptrace(PTRACE_INTERRUPT, pid)
        os.waitpid(pid, WALL)
        programs = []
        while True:
            try:
                length = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(programs))
            except FileNotFoundError:
                return programs
            buffer = ctypes.create_string_buffer(length * INSTRUCTION_BYTES)
            ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(programs), ctypes.addressof(buffer))
            programs.append(buffer.raw)
    finally:
        ptrace(PTRACE_DETACH, pid)


def docker(*args):
    done = subprocess.run(["docker", *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"docker {' '.join(args)}: {done.stderr}")
    return done.stdout.strip()


def load_image():
    layer = mkimage.busybox_layer(mkimage.find_busybox())
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        archive.write(mkimage.docker_archive(IMAGE, [layer]))
        archive.flush()
        docker("load", "-i", archive.name)


def capture(profile, options):
    security = [] if profile == "default" else ["--security-opt", f"seccomp={DATA / profile}"]
    container = docker("run", "-d", "--network", "none", *security, *options, IMAGE, "sleep", "1000")
    try:
        state = json.loads(docker("inspect", container))[0]["State"]
        if not state["Running"]:
            sys.exit(f"{profile}: the container has ended: {state}")
        status = pathlib.Path(f"/proc/{state['Pid']}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return filters_of(state["Pid"]), int(fields["CapBnd"], 16)
    finally:
        docker("rm", "-f", container)


def main():
    path = DATA / "captures.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    version = json.loads(docker("version", "--format", "{{json .Server}}"))
    runtime = next(c["Version"] for c in version["Components"] if c["Name"] == "runc")
    load_image()
    for case in sys.argv[1:] or CASES:
        profile, options = CASES[case]
        programs, caps = capture(profile, options)
        if len(programs) != 1:
            sys.exit(f"{case}: {len(programs)} filters, the test expects one")
        (DATA / f"{case}.bpf").write_bytes(programs[0])
        known[case] = {"profile": profile, "options": options, "caps": caps,
                       "kernel": ".".join(os.uname().release.split(".")[:2]),
                       "engine": version["Version"], "runtime": runtime,
                       "instructions": len(programs[0]) // INSTRUCTION_BYTES}
        print(case, known[case])
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
