"""A virtual machine with gantryd in it; the docker CLI and the end-to-end suite reach it over loopback."""
import ctypes
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import disk
from engine import External, gantryd_binary, wait_for
from kernels import Unavailable

BOOT_TIMEOUT_S = 240   # of a kernel without hardware support on a loaded machine
BOOT_ATTEMPTS = 3
SILENCE_TIMEOUT_S = 40
SCRIPT_TIMEOUT_S = 120
START_TIMEOUT_S = 120
LEFT_TIMEOUT_S = 20
MEMORY_MIB = 1536
SWAP_BYTES = 256 << 20
PR_SET_PDEATHSIG = 1
# Names of processes in another mount namespace than the first one's, but for the kernel's own and keepers.
PROCESSES_ELSEWHERE = """own=$(readlink /proc/1/ns/mnt)
for p in /proc/[0-9]*; do
    space=$(readlink $p/ns/mnt) && [ "$space" != "$own" ] && cat $p/comm
done 2>/dev/null | grep -v -e '^gantry' -e '^kdevtmpfs$'
true
"""
QEMU = "qemu-system-x86_64"


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def need_tools():
    for tool, package in ((QEMU, "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs"), ("ldd", "libc-bin")):
        if not shutil.which(tool):
            raise Unavailable(f"no {tool} here (Debian: {package})")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Guest:
    """One machine. `disks` are further sparse disks by size in bytes; `append` goes to the kernel's command line;
    with `share` this machine's root file system is there, read-only, at /host; `programs` and `trees` are files and folders
    of this machine by their places inside."""

    def __init__(self, kernel, work, busybox, append="", disks=(), swap=True, share=False, programs=(), trees=()):
        self.kernel, self.work, self.busybox = kernel, pathlib.Path(work), busybox
        self.work.mkdir(parents=True, exist_ok=True)
        self.append, self.disks, self.swap, self.share = append, list(disks), swap, share
        self.more = {"programs": programs, "trees": trees}
        self.console = self.work / "console"
        self.agent_port = self.api_port = self.process = self.engine = None

    def images(self):
        root = self.work / "root.img"
        disk.make_root_disk(root, self.work, self.kernel, gantryd_binary(), self.busybox, **self.more)
        images = [root]
        for number, size in enumerate(([SWAP_BYTES] if self.swap else []) + self.disks):
            images.append(self.work / f"disk{number}.img")
            disk.make_disk(images[-1], size)
        if self.swap:
            with open(images[1], "r+b") as f:
                f.write(b"SWAP")
        return images

    def command(self, images):
        (self.work / "initramfs").write_bytes(disk.initramfs(self.kernel, self.busybox))
        self.agent_port, self.api_port = free_port(), free_port()
        forward = f"hostfwd=tcp:127.0.0.1:{self.agent_port}-:2300,hostfwd=tcp:127.0.0.1:{self.api_port}-:2375"
        line = f"console=ttyS0 panic=-1 loglevel=6 cgroup_no_v1=all swapaccount=1 {self.append}"
        command = [QEMU, "-accel", os.environ.get("GANTRY_GUEST_ACCEL", "tcg,thread=multi"), "-cpu", "max",
                   "-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot",
                   "-serial", f"file:{self.console}", "-kernel", self.kernel.image,
                   "-initrd", self.work / "initramfs", "-append", line,
                   "-netdev", f"user,id=net,restrict=on,{forward}", "-device", "virtio-net-pci,netdev=net"]
        if self.share:
            command += ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        for image in images:
            command += ["-drive", f"file={image},if=virtio,format=raw,cache=unsafe"]
        return [str(c) for c in command]

    def boot(self):
        images = self.images()
        for attempt in range(BOOT_ATTEMPTS):
            self.console.unlink(missing_ok=True)
            command = self.command(images)
            with open(self.work / "qemu.log", "wb") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                preexec_fn=die_with_parent)
            if self.speaks() or attempt + 1 == BOOT_ATTEMPTS:
                break
            self.process.kill()
            self.process.wait()
        self.engine = External(f"tcp://127.0.0.1:{self.api_port}", self.work / "cli")
        wait_for(self.is_ready, lambda: f"the guest is ready: {self.output()[-2000:]}", BOOT_TIMEOUT_S, 0.1)
        wait_for(self.agent_answers, "the guest's agent answers", BOOT_TIMEOUT_S, 0.2)

    def speaks(self):
        """Whether the kernel says something soon. Emulated, one in some tens of boots was seen to hang before that."""
        deadline = time.monotonic() + SILENCE_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            if self.output():
                return True
            time.sleep(0.1)
        return False

    def output(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def is_ready(self):
        self.check()
        return "guest: ready" in self.output()

    def check(self):
        if self.process.poll() is not None:
            log = (self.work / "qemu.log").read_text(errors="replace")
            raise AssertionError(f"qemu ended with {self.process.returncode}:\n{log}\n{self.output()[-3000:]}")

    def agent_answers(self):
        try:
            return self.script("true", 10)[0] == 0
        except OSError:
            return False

    def script(self, text, timeout=SCRIPT_TIMEOUT_S):
        """Runs a shell script in the guest: exit status and output, both streams together."""
        with socket.create_connection(("127.0.0.1", self.agent_port), timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(text.encode() + b"\n")
            sock.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: sock.recv(65536), b"")).decode(errors="replace")
        body, found, status = data.rpartition("\nstatus ")
        if not found:
            raise ConnectionError(f"the agent gave up: {data[-500:]!r}")
        return int(status), body.removesuffix("\n")

    def ok(self, text, timeout=SCRIPT_TIMEOUT_S):
        status, out = self.script(text, timeout)
        assert status == 0, f"{text!r} in the guest: {status}\n{out}"
        return out

    def pytest(self, *args, timeout):
        """Runs the end-to-end suite inside, with this machine's programs and a daemon of its own."""
        environment = f"GANTRYD=/var/tmp/bin/gantryd PYTHONDONTWRITEBYTECODE=1 HOME=/tmp PATH='{os.environ['PATH']}'"
        command = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=short", *args])
        inside = shlex.quote(f"cd /mnt && exec env {environment} {command}")
        return self.script(f"exec /sbin/guest-share '{disk.REPO}' {inside}", timeout)

    def read(self, path):
        return self.ok(f"cat '{path}'")

    def start_daemon(self, *args):
        """Starts gantryd and waits for its answer."""
        self.ok("/sbin/gantryd-start " + " ".join(args))
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self.engine.http("GET", "/_ping", timeout=20)[0] == 200:
                    return
            except OSError:
                pass
            if not self.daemon_runs() or time.monotonic() > deadline:
                raise AssertionError(f"gantryd does not come up:\n{self.daemon_log()[-4000:]}")
            time.sleep(0.2)

    def daemon_runs(self):
        return self.script("pidof gantryd")[0] == 0

    def daemon_log(self):
        return self.read("/var/log/gantryd.log")

    def stop_daemon(self):
        self.ok("kill $(cat /run/gantryd.pid) && for i in $(seq 600); do pidof gantryd >/dev/null || exit 0; "
                "usleep 100000; done; exit 1")

    def kill_daemon(self):
        """kill -9, as a crash."""
        self.ok("kill -9 $(cat /run/gantryd.pid); for i in $(seq 600); do pidof gantryd >/dev/null || exit 0; "
                "usleep 50000; done; exit 1")

    def remove_containers(self):
        """One after the other: of many connections at once qemu's user network was seen to lose some for minutes."""
        for container in self.engine.json("GET", "/containers/json?all=1")[1]:
            self.engine.http("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.engine.remove_all()

    def check_nothing_left(self):
        """No control group and no process of a container, when there is no container."""
        def left():
            groups = self.ok("find /sys/fs/cgroup -mindepth 1 -type d | grep -E '[0-9a-f]{64}' || true")
            processes = self.ok(PROCESSES_ELSEWHERE)
            return (groups + processes).strip()
        wait_for(lambda: not left(), lambda: f"nothing is left: {left()}", LEFT_TIMEOUT_S, 0.2)

    def stop(self):
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for image in self.work.glob("*.img"):
            image.unlink()
