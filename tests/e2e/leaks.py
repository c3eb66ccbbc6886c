"""What an engine holds on the machine, counted from outside: processes, threads, file
descriptors, network namespaces, mounts, cgroups, files, and the daemon's own task counts."""
import collections
import glob
import os
import re
import time

SETTLE_TIMEOUT_S = 60
ID = re.compile(r"[0-9a-f]{64}")
LOG_FILES = re.compile(r"gantryd\.log$")
# Comes a second after its container, whose directory is counted.
LATE_FILES = re.compile(r"containers/[0-9a-f]{64}/container\.(json|new)$")


def read(path, mode="r"):
    try:
        with open(path, mode, errors=None if "b" in mode else "replace") as f:
            return f.read()
    except OSError:
        return b"" if "b" in mode else ""


def links(pid):
    for fd in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            yield os.readlink(fd)
        except OSError:
            continue


def engine_processes(eng):
    """Pids of the daemon, its keepers and their containers, with what each is.

    Known by the mark in the environment, by the exec root in the command line, as a keeper by the exec
    root that it holds open, or by descent from one of those.
    """
    mark, found, children = eng.mark.encode(), {}, collections.defaultdict(list)
    for path in glob.glob("/proc/[0-9]*"):
        pid = int(path[6:])
        stat = read(f"{path}/stat").rpartition(")")[2].split()
        if len(stat) < 2:
            continue
        children[int(stat[1])].append(pid)
        if pid == eng.pid or mark in read(f"{path}/environ", "rb") or \
                str(eng.exec_root) in read(f"{path}/cmdline") or \
                ("keeper" in read(f"{path}/comm") and str(eng.exec_root) in links(pid)):
            found[pid] = read(f"{path}/comm").strip()
    queue = list(found)
    while queue:
        for child in children[queue.pop()]:
            if child not in found and child != os.getpid():
                found[child] = read(f"/proc/{child}/comm").strip()
                queue.append(child)
    return found


def fd_kinds(pid):
    """Open files of a process by what they point to, numbers of anonymous inodes left out."""
    kinds = collections.Counter()
    for target in links(pid):
        kinds[ID.sub("ID", re.sub(r"\[\d+\]", "[]", target))] += 1
    return kinds


def net_namespaces(pids):
    spaces = set()
    for pid in pids:
        for path in [f"/proc/{pid}/ns/net", *glob.glob(f"/proc/{pid}/fd/*")]:
            try:
                target = os.readlink(path)
            except OSError:
                continue
            if target.startswith("net:["):
                spaces.add(target)
    return spaces


def of_others(cgroup, procs):
    """Does the cgroup hold processes, but none of ours? Another engine's container."""
    pids = {int(p) for p in read(f"{cgroup}/cgroup.procs").split()}
    return bool(pids) and pids.isdisjoint(procs)


def tree(root):
    paths = (os.path.join(base, name) for base, dirs, files in os.walk(root) for name in dirs + files)
    return {os.path.relpath(path, root) for path in paths if not LOG_FILES.search(path) and not LATE_FILES.search(path)}


def debug_numbers(eng):
    """What the daemon itself counts as alive, summed over its shards; a panic is a leak too."""
    sums = collections.Counter()
    for shard in eng.debug()["shards"]:
        for key in ("tasks_alive", "mailbox_len", "connections", "panics"):
            sums[key] += shard[key]
    return sums


def snapshot(eng):
    procs = engine_processes(eng)
    engine_pids = [p for p in procs if p == eng.pid or "keeper" in procs[p]]
    fds = collections.Counter()
    for pid in engine_pids:
        for kind, count in fd_kinds(pid).items():
            fds[f"{'daemon' if pid == eng.pid else 'keeper'} {kind}"] += count
    return {
        "processes": collections.Counter(procs.values()),
        "threads": {"engine": sum(len(glob.glob(f"/proc/{p}/task/*")) for p in engine_pids)},
        "fds": fds,
        "netns": {"count": len(net_namespaces(procs))},
        "mounts": collections.Counter(read("/proc/self/mountinfo").splitlines()),
        "keeper mounts": {"count": sum(len(read(f"/proc/{p}/mountinfo").splitlines())
                                       for p in engine_pids if p != eng.pid)},
        "cgroups": collections.Counter(p for p in glob.glob("/sys/fs/cgroup/**/docker/*", recursive=True)
                                       if ID.search(p) and not of_others(p, procs)),
        "files": collections.Counter(ID.sub("ID", p) for p in tree(eng.workdir)),
        "tasks": debug_numbers(eng) if eng.alive() else {},
    }


def growth(before, after):
    """What is more in `after`, by section; an empty dict is a clean engine."""
    return {section: more for section, now in after.items()
            if (more := {k: f"{before[section].get(k, 0)} -> {v}" for k, v in now.items()
                         if v > before[section].get(k, 0)})}


def settled(eng):
    """A snapshot that two reads in a row agree on."""
    last, deadline = snapshot(eng), time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = snapshot(eng)
        if not growth(last, now) and not growth(now, last):
            return now
        last = now
    return last


def assert_no_growth(eng, before, ignored=()):
    """Wait until nothing is more than before; name what is, if that does not come."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while more := {k: v for k, v in growth(before, snapshot(eng)).items() if k not in ignored}:
        assert time.monotonic() < deadline, f"left behind: {more}"
        time.sleep(0.3)


def assert_nothing_left(eng):
    """After the daemon's end without containers: no process and no mount of it."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        procs = engine_processes(eng)
        procs.pop(eng.pid, None)
        mounts = [m for m in read("/proc/self/mountinfo").splitlines() if str(eng.workdir) in m]
        if not procs and not mounts:
            return
        assert time.monotonic() < deadline, f"left after the daemon's end: {procs} {mounts}"
        time.sleep(0.1)
