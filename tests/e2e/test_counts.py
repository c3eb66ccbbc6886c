"""What a start costs in system calls, counted from outside by strace: it must not creep up.

Each limit is what is needed today, with the reason; a change that needs more says so here.
"""
import collections
import os
import re
import shutil
import signal
import subprocess

import pytest

from engine import wait_for

pytestmark = [
    pytest.mark.gantry,
    pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing"),
]

STARTS = 5
# What a container cannot see or write, as far as the host has it.
HIDDEN = ["/proc/" + name for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi",
                                       "timer_list", "timer_stats", "bus", "fs", "irq", "sys", "sysrq-trigger")]
HIDDEN += ["/sys/devices/virtual/powercap", "/sys/firmware"]
CALLS = ("clone,clone3,fork,vfork,execve,mount,umount2,fsopen,fsconfig,fsmount,open_tree,move_mount,mount_setattr,"
         "pivot_root,unshare,setns,fsync,fdatasync,sync_file_range,syncfs,mkdir,mkdirat,rmdir,write,pwrite64,"
         "sendto,sendmsg,ioctl,seccomp,prctl,epoll_wait,epoll_pwait")
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>)")


def hierarchies():
    """Mounted control group hierarchies: version 1, version 2."""
    kinds = [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo")]
    return kinds.count("cgroup"), kinds.count("cgroup2")


class Trace:
    """strace on the daemon and its keepers."""

    def __init__(self, eng, path):
        self.path, keepers = path, []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = open(f"/proc/{entry}/stat").read()
                except OSError:
                    continue
                name, fields = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
                if name == "gantry-keeper" and int(fields[1]) == eng.pid:
                    keepers.append(int(entry))
        assert keepers, "no keeper of this daemon"
        pids = [arg for pid in (eng.pid, *keepers) for arg in ("-p", str(pid))]
        self.process = subprocess.Popen(["strace", "-f", "-qq", "-yy", "-s", "64", "-e", f"trace={CALLS}", "-o", path, *pids],
                                        stderr=subprocess.PIPE, text=True)
        self.traced = [eng.pid, *keepers]

    def ready(self):
        if self.process.poll() is not None:
            error = self.process.stderr.read()
            pytest.skip(f"strace cannot attach here: {error.strip()[:200]}")
        return all(f"TracerPid:\t{self.process.pid}" in open(f"/proc/{pid}/status").read() for pid in self.traced)

    def lines(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        with open(self.path, errors="replace") as f:
            # A call that was cut in two counts once, where it began.
            return [line for line in f if " resumed>" not in line]


def count(lines):
    numbers = collections.Counter()
    for line in lines:
        found = CALL.match(line)
        if not found:
            continue
        name = found.group(1)
        numbers[name] += 1
        if name in ("write", "pwrite64") and "</sys/fs/cgroup/" in line:
            numbers["cgroup writes"] += 1
        if name in ("sendto", "sendmsg") and "<NETLINK:" in line:
            numbers["netlink sends"] += 1
        if name == "ioctl" and "SIOC" in line:
            numbers["interface ioctls"] += 1
        if name in ("mkdir", "mkdirat", "rmdir") and "/sys/fs/cgroup/" in line:
            numbers[f"cgroup {name}"] += 1
    return numbers


@pytest.fixture
def traced(private_daemon, tmp_path):
    eng = private_daemon
    made = [eng.ok("create", "--network", "none", "busybox", "true") for _ in range(STARTS + 3)]
    # What is made once is made by now: caches, the pool of namespaces, parents of control groups.
    for name in made[STARTS:]:
        eng.ok("start", name)
        eng.ok("wait", name)
    trace = Trace(eng, str(tmp_path / "trace"))
    wait_for(trace.ready, "strace is attached")
    for name in made[:STARTS]:
        assert eng.http("POST", f"/containers/{name}/start")[0] == 204
        status, done = eng.json("POST", f"/containers/{name}/wait")
        assert (status, done["StatusCode"]) == (200, 0)
    return {name: number / STARTS for name, number in count(trace.lines()).items()}


def test_a_start_needs_no_more_than_this(traced):
    v1, v2 = hierarchies()
    hidden = sum(map(os.path.exists, HIDDEN))
    limits = {
        # One process, which shares the keeper's memory until it executes; nothing else is forked or executed.
        "clone3": 1, "clone": 0, "fork": 0, "vfork": 0, "execve": 1,
        # overlay, devpts, /dev, /dev/shm, the mask, and with version 1 the directory of the hierarchies; then proc, sysfs
        # and mqueue in the child.
        "fsopen": 9 if v1 else 8, "fsmount": 9 if v1 else 8, "fsconfig": 36,
        # hosts, hostname, resolv.conf; each hierarchy of version 1, or that of version 2; what is masked or read-only.
        "open_tree": 3 + (v1 or v2) + hidden, "mount_setattr": 3 + (v1 or v2) + hidden,
        "move_mount": 12 + (v1 or v2) + hidden, "mount": 0,
        # Nothing of the old root has to go.
        "pivot_root": 0, "umount2": 0,
        # The exit. A start is not synced: the keeper has it.
        "fsync": 0, "fdatasync": 1, "syncfs": 0, "sync_file_range": 0,
        # Into a network namespace that was made ahead (the child), while the next one is made (a worker, there and back).
        "setns": 3, "unshare": 2, "netlink sends": 0, "interface ioctls": 2,
        # Two states for the journal, and the exit for the store, whose log takes it with one.
        "pwrite64": 5,
        "seccomp": 1,
        # Attached once to each hierarchy, cpuset's two files, a rule for each device.
        "cgroup writes": v1 + 2 + 13,
        "cgroup mkdir": v1 + v2, "cgroup rmdir": v1 + v2,
        # Log, /etc files, record and wake-ups of threads, beside those to control groups.
        "write": v1 + 15 + 16, "sendmsg": 10,
        # The keeper's: launch, exit, forget. One that watches a process which is gone would be told so without end.
        "epoll_wait": 10, "epoll_pwait": 0,
        # One for each capability that a container does not have, and four.
        "prctl": 45,
    }
    over = {name: (number, limits[name]) for name, number in traced.items()
            if name in limits and number > limits[name]}
    assert not over, f"per start, seen and allowed: {over}\nall: {traced}"
    # And the count is of something.
    assert traced["clone3"] == 1 and traced["execve"] == 1 and traced["fsmount"] >= 5, traced
