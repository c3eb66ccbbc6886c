"""From the raw answers of an engine to a flat document, PATH -> text, without what differs by nature.

By nature differ ids, times, pids, device and inode numbers, places of the engine's own files, the file system
below them, and what a container has of its host (limits of the engine, host names, /etc files).
"""
import json
import os
import pathlib
import re
import stat

HEX64 = re.compile(r"\b[0-9a-f]{64}\b")
TIME = re.compile(r"\b(?!0001-)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
SOCKET = re.compile(r"\b(pipe|socket):\[\d+\]")
STATUS = {"Name", "Umask", "Tgid", "Pid", "PPid", "TracerPid", "Uid", "Gid", "FDSize", "Groups", "NStgid", "NSpid", "NSpgid",
          "NSsid", "CoreDumping", "THP_enabled", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh",
          "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass",
          "SpeculationIndirectBranch", "Cpus_allowed_list", "Mems_allowed_list"}
PIDS = {"Tgid", "Pid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid"}
DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "virtiofs", "9p"}
# Paths of an inspect after the first.
LATER = re.compile(r"^(ended|call\d+\.answer)\.")
# One line is one entry, named by its first word.
KEYED = {"dev", "dev/open", "writable", "masked", "root", "fds", "procs-of-group", "files", "sys/fs/cgroup"}
# The storage driver's own business.
DROPPED = re.compile(r"(^|\.)(GraphDriver\..*|Driver)$")
# A symbolic link as stat shows it.
LINK = re.compile(r"'([^']*)'")
# Of the machine: whether somebody switched forwarding on.
FORWARDING = "IPv4 forwarding is disabled. Networking will not work."
# How runc names what it mounts on: a descriptor, its own mount of proc, the root file system's place.
RUNC = ((re.compile(r"dstFd=/proc/thread-self/fd/\d+, "), ""), (re.compile(r"fsmount:fscontext:proc/\./"), "/proc/"),
        (re.compile(r"[^\" ]*/overlay2/[0-9a-zA-Z]+/merged/"), "/"))


class Names:
    """What of this engine's answers stands for something else."""

    def __init__(self, driver):
        self.driver = driver
        root = pathlib.Path(f"/proc/{driver.pid}/root")
        self.data_root = driver.info["DockerRootDir"]
        self.hostname = driver.info["Name"]
        self.images = {i["Id"]: f"image:{(i['RepoTags'] or ['none'])[0].split(':')[0]}"
                       for i in driver.json("GET", "/images/json")[1]}
        self.limits = limits(pathlib.Path(f"/proc/{driver.pid}/limits").read_text())
        self.files = {name: read(root / f"etc/{name}") for name in ("hosts", "resolv.conf", "hostname")}
        self.resolver = {line for line in self.files["resolv.conf"].split("\n") if line.strip() and line[0] not in "#;"}
        self.cpus = read(pathlib.Path("/sys/devices/system/cpu/online")).strip()
        self.ncpu = driver.info["NCPU"]
        self.caps = re.search(r"CapBnd:\t(\w+)", read(pathlib.Path(f"/proc/{driver.pid}/status")))[1]
        self.devices = host_devices()
        self.cgroups = sorted({line.split(":", 2)[2] for line in read(pathlib.Path(f"/proc/{driver.pid}/cgroup")).splitlines()},
                              key=len, reverse=True)
        self.first = read(pathlib.Path("/proc/1/comm")).strip()
        self.interfaces = sorted(p.name for p in pathlib.Path("/sys/class/net").iterdir())

    def group(self, path):
        """A group's path below the engine's own group, where a relative parent is counted from."""
        return next((path[len(own):] for own in self.cgroups if own != "/" and path.startswith(own + "/")), path)

    def text(self, text, ids):
        for name, id in ids.items():
            text = text.replace(id, f"@{name}").replace(id[:12], f"@{name}.short")
        for id, image in self.images.items():
            text = text.replace(id, image).replace(id.removeprefix("sha256:"), image)
        for pattern, to in RUNC:
            text = pattern.sub(to, text)
        text = text.replace(self.driver.dir.path, "@dir").replace(self.data_root, "@root")
        text = text.replace(f"is from 0.01 to {self.ncpu}.00, as there are only {self.ncpu} CPUs", "is from 0.01 to @cpus")
        text = text.replace(f"available: {self.cpus}", "available: @cpus")
        return SOCKET.sub(r"\1:[n]", TIME.sub("TIME", HEX64.sub("HEX64", text)))


def host_devices():
    """What the probe prints of the host's own devices: mode, owner and number by name."""
    found = {}
    for path in pathlib.Path("/dev").iterdir():
        info = path.lstat()
        if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
            number = f"{os.major(info.st_rdev)},{os.minor(info.st_rdev)}"
            found[path.name] = f"{stat.filemode(info.st_mode)} {info.st_uid} {info.st_gid} {number} {path.name}"
    return found


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def limits(text):
    """Rows of /proc/PID/limits by their names."""
    return {row[:26].strip(): " ".join(row[26:].split()) for row in text.splitlines()[1:]}


def flat(result, case, names):
    """The document of one raw result of `Driver.run`."""
    ids = result["ids"]
    out = {}

    def put(path, value):
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        out[path] = names.text(text, ids)

    for stage in ("create", "start", "left", "remove"):
        if stage in result:
            spread(put, stage, result[stage])
    for index, answer in enumerate(result.get("calls", ())):
        if isinstance(answer, dict):
            executed(put, f"exec{index}.", answer, result, case, names)
        elif answer is not None:
            spread(put, f"call{index}", {"status": answer[0], "answer": shown(answer[1], names)})
    if "wait" in result:
        spread(put, "wait", {"status": result["wait"][0], "answer": result["wait"][1]})
    for stage in ("created", "ended"):
        if stage in result:
            spread(put, stage, shown(result[stage], names))
    # Of later looks at it only what became different.
    for path in [p for p in out if LATER.match(p) and out[p] == out.get(LATER.sub("created.", p))]:
        del out[path]
    if "output" in result:
        written(put, result["output"], result, case, names)
    return out


def executed(put, prefix, answer, result, case, names):
    def below(path, value):
        put(prefix + path, value)
    spread(below, "create", {"status": answer["create"][0], "answer": answer["create"][1]})
    if "inspect" in answer:
        below("start", answer["start"])
        answer["inspect"]["Pid"] = "PID" if answer["inspect"]["Pid"] else 0
        spread(below, "inspect", answer["inspect"])
        written(below, answer["output"], result, case, names)


def written(put, output, result, case, names):
    output = output.replace("\r\n", "\n").removeprefix("ready\n")
    if output.startswith("@@ "):
        inside(put, output, result, case, names)
    else:
        put("output", output)


def spread(put, path, value):
    """Objects become paths; everything else is a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            spread(put, f"{path}.{key}", inner)
    elif not DROPPED.search(path) or ".Mounts." in path:
        if path.endswith(".answer.Warnings") and value and FORWARDING in value:
            value = [warning for warning in value if warning != FORWARDING]
            # An update without warnings has no list.
            value = value or ([] if path.startswith("create.") else None)
        put(path, value)


def shown(document, names):
    """An inspect document without pids, and with the host's name replaced."""
    if not isinstance(document, dict) or "State" not in document:
        return document
    if document["State"]["Pid"]:
        document["State"]["Pid"] = "PID"
    if document["Config"]["Hostname"] == names.hostname:
        document["Config"]["Hostname"] = "@hostname"
    # The order of mount points is not promised.
    document["Mounts"] = {m["Destination"]: m for m in document["Mounts"]}
    return document


def sections(output):
    name, lines = None, []
    for line in output.split("\n"):
        if line.startswith("@@ "):
            if name:
                yield name, lines
            name, lines = line[3:], []
        else:
            lines.append(line)
    yield name, lines


def inside(put, output, result, case, names):
    """The sections of the probe's output."""
    spaces = {space: "host's" for space in result["host"]}
    for donor, own in result["namespaces"].items():
        spaces.update({space: f"@{donor}'s" for space in own if space not in spaces})
    for name, lines in sections(output):
        lines = [line.rstrip() for line in lines if line.strip()]
        if name == "status":
            rows = dict(line.split(":", 1) for line in lines)
            for key in STATUS & set(rows):
                value = " ".join(rows[key].split())
                if key.startswith("Cap") and value == names.caps:
                    value = "all of the engine"
                if key in PIDS:
                    value = " ".join(v if v in ("0", "1") else "n" for v in value.split())
                put(f"status.{key}", "all" if key == "Cpus_allowed_list" and value == names.cpus else value)
        elif name == "limits":
            for key, value in limits("\n".join(["", *lines])).items():
                put(f"limits.{key}", "inherited" if names.limits.get(key) == value else value)
        elif name == "ns":
            for link, space in map(LINK.findall, lines):
                put(f"ns.{link.rpartition('/')[2]}", spaces.get(space, "own"))
        elif name == "mountinfo":
            mounts(put, lines, names)
        elif name == "limits-of-group":
            group_files(put, lines, names)
        elif name == "cgroup":
            for line in lines:
                _, controller, path = line.split(":", 2)
                put(f"cgroup.{controller or 'unified'}", names.group(path))
        elif name == "first":
            put("first", "host's" if case.host.get("PidMode") == "host" and lines[0] == names.first else "\n".join(lines))
        elif name == "stat":
            put("stat", " ".join(v if v in ("0", "1", "-1") or i == 3 else "n" for i, v in enumerate(lines[0].split())))
        elif name == "net":
            put("net", "host's" if sorted(lines[0].split()) == names.interfaces else "\n".join(lines))
        elif name in ("hostname", "env", "etc/hostname"):
            own = names.hostname
            put(name, "\n".join("@hostname" if line == own else "HOSTNAME=@hostname" if line == f"HOSTNAME={own}" else line
                                for line in lines))
        elif name in ("etc/hosts", "etc/resolv.conf"):
            put(name, etc_file(name[4:], "\n".join(lines), names))
        elif name == "dev" and (case.host.get("Privileged") or "/dev:/dev" in case.host.get("Binds", ())):
            all_devices(put, lines, names)
        elif name == "fds":
            # The directory that was listed was open itself; it is gone when it is looked at.
            keyed(put, name, [line for line in lines if not line.startswith("stat: ")])
        elif name in KEYED:
            keyed(put, name, lines)
        else:
            put(name, "\n".join(lines))


def keyed(put, section, lines):
    last, content = None, []
    for line in lines:
        if line.startswith("in "):
            last, content = line[3:], []
            continue
        if line.startswith("| "):
            content.append(line)
            put(f"{section}.{last} content", "\n".join(content))
            continue
        words = line.split()
        key = words[3] if section in ("root", "sys/fs/cgroup") else words[0]
        if section == "fds":
            link, target = LINK.findall(line)
            key = link.rpartition("/")[2]
            # Of a bound /dev it is named as on the host.
            words = [key, re.sub(r"^.*(/dev/null)$", r"\1", target)]
        if section == "dev":
            key = words[3] if line[0] not in "bc" else words[4]
        put(f"{section}.{key}", " ".join(words))


def all_devices(put, lines, names):
    """The /dev of a container that has every device of its host: those devices are one entry."""
    shown = {line.split()[-1]: line for line in lines if line[0] in "bc"}
    wrong = sorted(name for name, line in names.devices.items() if shown.get(name) != line and name not in ("console", "ptmx"))
    put("dev.of-the-host", "all" if not wrong else "all but " + " ".join(wrong))
    keyed(put, "dev", [line for line in lines if line[0] in "bc" and names.devices.get(line.split()[-1]) != line])


def etc_file(name, text, names):
    own = "\n".join(line.rstrip() for line in names.files[name].split("\n") if line.strip())
    if own and text.startswith(own):
        text = "@host's" + text[len(own):]
    if name == "resolv.conf":
        # Lines taken over from the host, whatever they are.
        lines = ["@host's" if line in names.resolver else line for line in text.split("\n")]
        text = "\n".join(line for at, line in enumerate(lines) if line != "@host's" or lines[at - 1] != line)
    return text


def group_files(put, lines, names):
    rows = {}
    for line in lines:
        file, _, value = line.partition(":")
        rows.setdefault(file, []).append(value)
    for file, values in rows.items():
        if file.startswith("cpuset/cpuset.cpus") and values == [names.cpus]:
            values = ["all"]
        put(f"group.{file}", "\n".join(sorted(values)))


def mounts(put, lines, names):
    """Each mount by its place: what is mounted, how, on which other mount; equal devices by their first place."""
    rows, counts = [], {}
    for line in lines:
        left, right = line.split(" - ", 1)
        id, parent, device, root, point, options, *optional = left.split(" ")
        counts[point] = counts.get(point, 0) + 1
        place = point if counts[point] == 1 else f"{point}#{counts[point]}"
        rows.append((place, id, parent, device, root, point, options, optional, *right.split(" ", 2)))
    places = {row[1]: row[0] for row in rows}
    devices = {}
    for row in sorted(rows):
        devices.setdefault(row[3], row[0])
    for place, _, parent, device, root, point, options, optional, kind, source, super_options in rows:
        same = f" same as {devices[device]}" if devices[device] != place else ""
        if kind in DISKS and point == "/":
            root, source = "/", "overlay"
            super_options = ",".join(o for o in super_options.split(",")
                                     if not re.match(r"(lowerdir|upperdir|workdir|datadir)", o))
        elif kind in DISKS:
            kind, source, super_options, same = "disk", "disk", "rw" if re.match(r"rw\b", super_options) else "ro", ""
            root = re.sub(r"^.*?(/(containers|volumes|overlay2)/)", r"@root\1", root)
        if kind.startswith("cgroup"):
            root = names.group(root)
        if point == "/sbin/docker-init":
            root = "@init"
        if kind == "devtmpfs":
            super_options = super_options.split(",")[0]
        flags = " ".join(sorted(o.split(":")[0] for o in optional))
        put(f"mounts.{place}", f"{root} {options} [{flags}] {kind} {source} {super_options}{same} on {places.get(parent, '-')}")
