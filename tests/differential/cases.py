"""The configurations that are compared, each a `Case`. Bodies are plain documents of the API.

In strings `@dir` is a directory of the engine's host (`drive.HostDir`), `@NAME` the id of the donor NAME.
"""
import dataclasses

MIB = 1 << 20
SHELL = ["/bin/sh", "/probe.sh"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One container: its body, and what has to run beside it."""
    name: str
    host: dict = dataclasses.field(default_factory=dict)
    config: dict = dataclasses.field(default_factory=dict)
    # Containers that run (or, with "stopped", only exist) when the case begins: name -> body.
    donors: dict = dataclasses.field(default_factory=dict)
    # Further files that the probe prints.
    files: tuple = ()
    # What is done with a case that does not end by itself: (method, path, body), `@id` is the container.
    calls: tuple = ()

    def body(self):
        host = {"NetworkMode": "none", **self.host}
        body = {"Image": "probe", "Cmd": [*SHELL, *self.files], **self.config, "HostConfig": host}
        return {k: v for k, v in body.items() if v is not ...}


CASES = []


def case(name, host=None, config=None, **kw):
    CASES.append(Case(name, host or {}, config or {}, **kw))


SLEEP = {"Image": "probe", "Cmd": ["sleep", "600"]}


def donor(**host):
    return {"donor": {**SLEEP, "HostConfig": {"NetworkMode": "none", **host}}}


# The plain one, to which the recording of every other is a difference.
case("default")

# Config.
case("config-process", config={
    "Hostname": "box", "Domainname": "example.org", "Env": ["A=1", "B", "PATH=/bin", "A=2", "HOME=/nowhere", "=x", "EMPTY="],
    "WorkingDir": "/work//deep/../here", "Labels": {"a": "b"}, "StopSignal": "SIGUSR1", "StopTimeout": 3,
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Shell": ["/bin/sh", "-ec"], "OnBuild": ["RUN true"]})
case("config-fqdn", config={"Hostname": "box.example.org"})
case("config-tty", config={"Tty": True}, host={"ConsoleSize": [33, 77]})
case("config-tty-no-size", config={"Tty": True, "OpenStdin": True, "Env": ["TERM=vt100"]})
case("config-stdin", config={"OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True})
case("config-user-name", config={"User": "alice"})
case("config-user-numbers", config={"User": "4321:1234"})
case("config-user-and-group", config={"User": "alice:staff", "WorkingDir": "/new"})
case("config-entrypoint", config={"Entrypoint": ["/bin/sh", "/probe.sh", "/etc/group"], "Cmd": ["/etc/passwd"]})
case("config-entrypoint-string", config={"Entrypoint": "/probe.sh", "Cmd": None})
case("config-entrypoint-empty", config={"Image": "declared", "Entrypoint": [], "Cmd": SHELL})
case("config-image-says", config={"Image": "declared", "Cmd": ...})
case("config-image-overridden", config={
    "Image": "declared", "Cmd": ["/etc/group"], "Env": ["FROM=client"], "User": "0", "WorkingDir": "/", "Labels": {"own": "1"},
    "Volumes": {"/more": {}}, "ExposedPorts": {"1/tcp": {}}, "StopSignal": "9"})
case("config-network-disabled", config={"NetworkDisabled": True})
case("config-volumes", config={"Volumes": {"/volume": {}, "/mnt/new": {}}})

# Capabilities and security.
case("cap-add", {"CapAdd": ["NET_ADMIN", "cap_sys_ptrace"]})
case("cap-drop-all", {"CapDrop": ["ALL"]})
case("cap-drop-all-add", {"CapDrop": ["ALL"], "CapAdd": ["CHOWN", "NET_BIND_SERVICE"]})
case("cap-add-all", {"CapAdd": ["ALL"]})
case("cap-add-all-drop", {"CapAdd": ["ALL"], "CapDrop": ["MKNOD", "CAP_NET_RAW"]})
case("cap-user", {"CapAdd": ["NET_ADMIN"], "CapDrop": ["SETUID"]}, {"User": "1000"})
case("cap-order", {"CapAdd": ["sys_time", "AUDIT_CONTROL", "ALL"]})
case("privileged", {"Privileged": True})
case("privileged-user", {"Privileged": True}, {"User": "alice"})
case("privileged-limits", {"Privileged": True, "Memory": 64 * MIB, "PidsLimit": 50, "ReadonlyRootfs": True})
case("privileged-private-cgroup", {"Privileged": True, "CgroupnsMode": "private"})
case("privileged-masked", {"Privileged": True, "MaskedPaths": ["/proc/keys"], "ReadonlyPaths": ["/proc/fs"]})
case("no-new-privileges", {"SecurityOpt": ["no-new-privileges"]})
case("no-new-privileges-false", {"SecurityOpt": ["no-new-privileges=false"]})
case("no-new-privileges-user", {"SecurityOpt": ["no-new-privileges:true"]}, {"User": "alice"})
case("seccomp-unconfined", {"SecurityOpt": ["seccomp=unconfined"]})
case("seccomp-profile", {"SecurityOpt": [
    'seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}']})
case("seccomp-builtin", {"SecurityOpt": ["seccomp=builtin"]})
case("label-disable", {"SecurityOpt": ["label=disable", "label:user:x"]})
case("apparmor-unconfined", {"SecurityOpt": ["apparmor=unconfined"]})
case("systempaths", {"MaskedPaths": [], "ReadonlyPaths": []})
case("masked-own", {"MaskedPaths": ["/proc/uptime", "/sys/kernel", "/nonexistent", "/volume/seed", "/home"],
                    "ReadonlyPaths": ["/sys/fs", "/proc/irq", "/etc", "/nonexistent"]})
case("masked-only", {"MaskedPaths": ["/proc/kcore"]})
case("readonly-rootfs", {"ReadonlyRootfs": True})
case("readonly-rootfs-tmpfs", {"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "", "/run": "size=1m"}}, {"Volumes": {"/volume": {}}})
case("readonly-rootfs-tty", {"ReadonlyRootfs": True, "Init": True}, {"Tty": True})

# Groups and identities.
case("group-add", {"GroupAdd": ["staff", "4242", "root"]})
case("group-add-user", {"GroupAdd": ["daemon", "1000"]}, {"User": "alice"})
case("user-and-userns", {"UsernsMode": "host"})

# Namespaces.
case("pid-host", {"PidMode": "host"})
case("ipc-host", {"IpcMode": "host"})
case("ipc-none", {"IpcMode": "none"})
case("ipc-shareable", {"IpcMode": "shareable"})
case("ipc-donor", {"IpcMode": "container:@donor"}, donors=donor(IpcMode="shareable", ShmSize=3 * MIB))
case("pid-donor", {"PidMode": "container:@donor"}, donors=donor())
case("net-donor", {"NetworkMode": "container:@donor"},
     donors={"donor": {**SLEEP, "Hostname": "given", "HostConfig": {"NetworkMode": "none", "ExtraHosts": ["x:1.2.3.4"]}}})
case("all-donor", {"NetworkMode": "container:@donor", "PidMode": "container:@donor", "IpcMode": "container:@donor"},
     donors=donor(IpcMode="shareable"))
case("uts-host", {"UTSMode": "host"}, {"Hostname": ""})
case("net-host", {"NetworkMode": "host"})
case("net-host-hostname", {"NetworkMode": "host", "Dns": ["9.9.9.9"]}, {"Hostname": "own"})
case("cgroupns-private", {"CgroupnsMode": "private"})
case("cgroupns-host", {"CgroupnsMode": "host", "CgroupParent": "/gdiff/parent"})
case("cgroup-parent-relative", {"CgroupParent": "gdiff-relative"})
case("host-everything", {"PidMode": "host", "IpcMode": "host", "UTSMode": "host", "NetworkMode": "host", "CgroupnsMode": "host"})

# Files of /etc.
case("extra-hosts", {"ExtraHosts": ["one:10.0.0.1", "six:fd00::1", "six2:[fd00::2]", "one:10.0.0.2"]}, {"Hostname": "h"})
case("dns", {"Dns": ["10.9.8.7", "fd00::53"], "DnsSearch": ["example.org", "example.net"], "DnsOptions": ["ndots:3", "rotate"]})
case("dns-search-dot", {"DnsSearch": ["."], "DnsOptions": ["edns0"]})
case("dns-net-host", {"NetworkMode": "host", "Dns": ["10.9.8.7"], "DnsSearch": ["x.org"], "ExtraHosts": ["a:1.1.1.1"]})

# Memory, processors, block I/O, processes.
case("memory", {"Memory": 64 * MIB})
case("memory-swap", {"Memory": 64 * MIB, "MemorySwap": 96 * MIB})
case("memory-swap-equal", {"Memory": 64 * MIB, "MemorySwap": 64 * MIB})
case("memory-swap-unlimited", {"Memory": 64 * MIB, "MemorySwap": -1})
case("memory-reservation", {"Memory": 64 * MIB, "MemoryReservation": 32 * MIB})
case("memory-reservation-alone", {"MemoryReservation": 32 * MIB})
case("memory-swappiness", {"MemorySwappiness": 10, "Memory": 32 * MIB})
case("memory-swappiness-zero", {"MemorySwappiness": 0})
case("memory-swappiness-minus-one", {"MemorySwappiness": -1})
case("memory-kernel-tcp", {"KernelMemoryTCP": 8 * MIB})
case("memory-minimum", {"Memory": 6 * MIB}, {"Cmd": ["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]})
case("oom-kill-disable", {"OomKillDisable": True, "Memory": 64 * MIB})
case("oom-kill-disable-alone", {"OomKillDisable": True})
case("oom-score-adj", {"OomScoreAdj": 500})
case("cpu-shares", {"CpuShares": 512})
case("cpu-shares-one", {"CpuShares": 1})
case("cpu-shares-huge", {"CpuShares": 1000000})
case("cpu-quota", {"CpuPeriod": 50000, "CpuQuota": 25000})
case("cpu-period-alone", {"CpuPeriod": 50000})
case("cpu-quota-alone", {"CpuQuota": 20000})
case("cpu-quota-minus-one", {"CpuQuota": -1})
case("nano-cpus", {"NanoCpus": 1500000000})
case("nano-cpus-small", {"NanoCpus": 300000000})
case("cpuset", {"CpusetCpus": "0", "CpusetMems": "0"})
case("cpuset-range", {"CpusetCpus": "0-1"})
case("realtime", {"CpuRealtimePeriod": 1000000, "CpuRealtimeRuntime": 1000})
case("blkio-throttle", {"BlkioDeviceReadBps": [{"Path": "/dev/loop7", "Rate": 1048576}],
                        "BlkioDeviceWriteBps": [{"Path": "/dev/loop7", "Rate": 2097152}],
                        "BlkioDeviceReadIOps": [{"Path": "/dev/loop7", "Rate": 100}],
                        "BlkioDeviceWriteIOps": [{"Path": "/dev/loop7", "Rate": 200}]})
case("blkio-weight", {"BlkioWeight": 500, "BlkioWeightDevice": [{"Path": "/dev/loop7", "Weight": 300}]})
case("pids-limit", {"PidsLimit": 77})
case("pids-limit-zero", {"PidsLimit": 0})
case("pids-limit-minus-one", {"PidsLimit": -1})
case("ulimits", {"Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}, {"Name": "core", "Soft": 0, "Hard": 0},
                             {"Name": "nproc", "Soft": 100, "Hard": 100}, {"Name": "memlock", "Soft": 4096, "Hard": 8192}]})
case("everything-limited", {
    "Memory": 128 * MIB, "MemorySwap": 256 * MIB, "MemoryReservation": 64 * MIB, "CpuShares": 2048, "CpuPeriod": 100000,
    "CpuQuota": 150000, "CpusetCpus": "0", "PidsLimit": 99, "OomScoreAdj": 10, "CgroupParent": "/gdiff"})

# Devices.
case("device", {"Devices": [{"PathOnHost": "/dev/loop7", "PathInContainer": "/dev/loop7", "CgroupPermissions": "r"}]})
case("device-elsewhere", {"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/opt/log/kmsg", "CgroupPermissions": ""}]})
case("device-defaults", {"Devices": [{"PathOnHost": "/dev/kmsg"}]})
case("device-directory", {"Devices": [{"PathOnHost": "/dev/net", "PathInContainer": "/dev/net", "CgroupPermissions": "rwm"}]})
case("device-rules", {"DeviceCgroupRules": ["c 1:11 r", "b 7:* rwm", "a *:* m"]})
case("device-privileged", {"Privileged": True, "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/other",
                                                             "CgroupPermissions": "rwm"}]})

# Mounts.
case("tmpfs", {"Tmpfs": {"/tmp": "size=1m,mode=700", "/mnt/run": "exec,nodev", "/data": "ro"}})
case("shm-size", {"ShmSize": 5 * MIB})
case("tmpfs-shm", {"Tmpfs": {"/dev/shm": "size=2m"}})
case("sysctls", {"Sysctls": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345678", "fs.mqueue.msg_max": "20",
                             "net.core.somaxconn": "77"}},
     files=("/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/msg_max",
            "/proc/sys/net/core/somaxconn"))
case("sysctl-defaults", files=("/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range",
                               "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/disable_ipv6",
                               "/proc/sys/net/ipv6/conf/lo/disable_ipv6"))
case("sysctl-defaults-host", {"NetworkMode": "host"}, files=("/proc/sys/net/ipv4/ip_unprivileged_port_start",))
case("binds", {"Binds": ["@dir/plain:/mnt/rw", "@dir/plain:/mnt/ro:ro", "@dir/plain/file:/opt/file:ro", "@dir/made:/mnt/made"]})
case("binds-nested", {"Binds": ["@dir/tree:/mnt/tree", "@dir/tree:/mnt/treero:ro", "@dir/plain:/mnt/tree/over"]})
case("binds-propagation", {"Binds": ["@dir/tree:/mnt/p1:rslave", "@dir/tree:/mnt/p2:shared", "@dir/tree:/mnt/p3:private",
                                     "@dir/tree:/mnt/p4:ro,rshared"]})
case("binds-private-source", {"Binds": ["@dir/private:/mnt/p1:rprivate,nocopy", "@dir/private:/mnt/p2:z"]})
case("bind-over-etc", {"Binds": ["@dir/plain/file:/etc/hosts", "@dir/plain/file:/etc/resolv.conf:ro"]})
case("bind-dev", {"Binds": ["/dev:/dev"]})
case("bind-into-proc-sys", {"Binds": ["@dir/plain:/sys/fs/cgroup/mine"]})
case("bind-sys", {"Binds": ["/sys:/sys:ro"]})
case("bind-shm", {"Binds": ["@dir/plain:/dev/shm"]})
case("tmpfs-cgroup", {"Tmpfs": {"/sys/fs/cgroup": "size=1m"}})
case("tmpfs-modes", {"Tmpfs": {"/volume": "", "/tmp": "", "/new/dir": "", "/opt": "mode=1750"}})
case("bind-cgroup", {"Binds": ["/sys/fs/cgroup:/sys/fs/cgroup:ro"]})
case("volumes", {"Binds": ["gdiff-named:/volume", "gdiff-named:/mnt/again:ro", "gdiff-other:/volume/inner:nocopy"]})
case("volume-driver", {"Binds": ["gdiff-named:/data"], "VolumeDriver": "local"})
case("volume-of-another", {"Binds": ["gdiff-named:/data", "gdiff-named:/mnt/ro:ro"]},
     donors={"donor": {**SLEEP, "HostConfig": {"NetworkMode": "none", "Binds": ["gdiff-named:/volume"]}}})
case("mounts-bind", {"Mounts": [
    {"Type": "bind", "Source": "@dir/plain", "Target": "/mnt/a"},
    {"Type": "bind", "Source": "@dir/plain", "Target": "/mnt/b", "ReadOnly": True},
    {"Type": "bind", "Source": "@dir/tree", "Target": "/mnt/c", "BindOptions": {"NonRecursive": True}},
    {"Type": "bind", "Source": "@dir/tree", "Target": "/mnt/d", "BindOptions": {"Propagation": "rslave"}},
    {"Type": "bind", "Source": "@dir/newdir", "Target": "/mnt/e", "BindOptions": {"CreateMountpoint": True}}]})
case("mounts-read-only", {"Mounts": [
    {"Type": "bind", "Source": "@dir/tree", "Target": "/mnt/a", "ReadOnly": True},
    {"Type": "bind", "Source": "@dir/tree", "Target": "/mnt/b", "ReadOnly": True, "BindOptions": {"ReadOnlyNonRecursive": True}},
    {"Type": "bind", "Source": "@dir/tree", "Target": "/mnt/c", "ReadOnly": True,
     "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}}]})
case("mounts-volume", {"Mounts": [
    {"Type": "volume", "Source": "gdiff-m1", "Target": "/volume", "VolumeOptions": {"Labels": {"k": "v"}}},
    {"Type": "volume", "Target": "/mnt/anon", "VolumeOptions": {"NoCopy": True}},
    {"Type": "volume", "Source": "gdiff-m2", "Target": "/mnt/ro", "ReadOnly": True}]})
case("mounts-volume-subpath", {"Mounts": [
    {"Type": "volume", "Source": "gdiff-seeded", "Target": "/mnt/sub", "VolumeOptions": {"Subpath": "dir/inner"}},
    {"Type": "volume", "Source": "gdiff-seeded", "Target": "/opt/file", "VolumeOptions": {"Subpath": "seed"}}]},
    donors={"seeder": {**SLEEP, "HostConfig": {"NetworkMode": "none", "Binds": ["gdiff-seeded:/volume"]}}})
case("mounts-volume-tmpfs", {"Mounts": [
    {"Type": "volume", "Source": "gdiff-tmpfs", "Target": "/mnt/t",
     "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}}}}]})
case("mounts-tmpfs", {"Mounts": [
    {"Type": "tmpfs", "Target": "/mnt/a"},
    {"Type": "tmpfs", "Target": "/mnt/b", "TmpfsOptions": {"SizeBytes": MIB, "Mode": 0o1750}},
    {"Type": "tmpfs", "Target": "/mnt/c", "ReadOnly": True, "TmpfsOptions": {"Options": [["exec"], ["uid", "5"]]}}]})
case("volumes-from", {"VolumesFrom": ["@donor:ro"]}, {"Volumes": {"/data": {}}},
     donors={"donor": {**SLEEP, "Volumes": {"/volume": {}}, "HostConfig": {
         "NetworkMode": "none", "Binds": ["@dir/plain:/mnt/from:rw", "gdiff-named:/mnt/named"]}}})
case("volumes-from-two", {"VolumesFrom": ["@one", "@two:rw"], "Binds": ["@dir/plain:/mnt/x"]},
     donors={"one": {**SLEEP, "Volumes": {"/volume": {}}, "HostConfig": {"NetworkMode": "none", "Binds": ["@dir/tree:/mnt/x"]}},
             "two": {**SLEEP, "HostConfig": {"NetworkMode": "none", "Tmpfs": {"/mnt/t": ""}, "Binds": ["gdiff-two:/mnt/two"]}}})

case("mounts-image", {"Mounts": [{"Type": "image", "Source": "bare", "Target": "/mnt/image"}]}, files=("/mnt/image/etc/group",))
case("mounts-image-subpath", {"Mounts": [{"Type": "image", "Source": "probe:latest", "Target": "/opt/volume",
                                           "ImageOptions": {"Subpath": "volume/dir"}, "ReadOnly": True}]},
     files=("/opt/volume/inner/deep",))

# Changes of a container that runs; the probe begins when they are in force.
def updated(name, host, change, file, value):
    wait = f'echo ready; until [ "$(cat /sys/fs/cgroup/{file})" = {value} ]; do sleep 0.05; done; sh /probe.sh; sleep 600'
    case(f"update-{name}", host, {"Cmd": ["sh", "-c", wait]}, calls=(
        ("READY", "ready", None), ("POST", "/containers/@id/update", change), ("GET", "/containers/@id/json", None),
        ("READY", "@@ end", None), ("POST", "/containers/@id/kill", None)))


updated("pids", {"PidsLimit": 50}, {"PidsLimit": 60}, "pids/pids.max", 60)
updated("pids-none", {"PidsLimit": 50}, {"PidsLimit": -1}, "pids/pids.max", "max")
updated("memory", {"Memory": 64 * MIB}, {"Memory": 96 * MIB, "MemorySwap": 128 * MIB, "MemoryReservation": 32 * MIB},
        "memory/memory.soft_limit_in_bytes", 32 * MIB)
updated("memory-down", {"Memory": 64 * MIB, "MemorySwap": 128 * MIB}, {"Memory": 48 * MIB}, "memory/memory.limit_in_bytes", 48 * MIB)
updated("cpu", {"CpuShares": 500}, {"CpuShares": 700, "CpuPeriod": 50000, "CpuQuota": 20000, "CpusetCpus": "0"}, "cpu/cpu.shares", 700)
updated("nano-cpus", {}, {"NanoCpus": 500000000}, "cpu/cpu.cfs_quota_us", 50000)
updated("policy", {}, {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "CpuShares": 300}, "cpu/cpu.shares", 300)

# Processes in containers that run.
def executed(name, wanted, host=None, config=None, **kw):
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": SHELL, **wanted}
    # The shell stays: the probe shows what the first process is.
    case(f"exec-{name}", host, {"Cmd": ["sh", "-c", "echo ready; sleep 600; true"], **(config or {})}, calls=(
        ("READY", "ready", None), ("EXEC", "/containers/@id/exec", body), ("POST", "/containers/@id/kill", None)), **kw)


executed("default", {})
executed("like-its-container", {}, {"Memory": 64 * MIB, "OomScoreAdj": 100, "CapAdd": ["NET_ADMIN"], "GroupAdd": ["50"],
                                    "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}]},
         {"User": "alice", "WorkingDir": "/opt", "Env": ["A=b", "HOME=/x"], "Hostname": "box"})
executed("own", {"User": "33:50", "WorkingDir": "/mnt", "Env": ["C=d", "A=over"]}, {}, {"Env": ["A=b"], "WorkingDir": "/opt"})
executed("root-in-users", {"User": "0"}, {"CapDrop": ["CHOWN"], "GroupAdd": ["50"]}, {"User": "1000:1000"})
executed("privileged", {"Privileged": True})
executed("in-privileged", {"User": "alice"}, {"Privileged": True})
executed("tty", {"Tty": True, "ConsoleSize": [30, 90]})
executed("tty-in-tty", {"Tty": True, "Env": ["TERM=vt100"]}, {}, {"Tty": True})
executed("no-new-privileges", {}, {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "ReadonlyRootfs": True})
executed("private-cgroup", {}, {"CgroupnsMode": "private", "Init": True})
executed("host", {}, {"PidMode": "host", "NetworkMode": "host", "IpcMode": "host"})
executed("exit-code", {"Cmd": ["sh", "-c", "echo out; exit 9"]})
executed("killed", {"Cmd": ["sh", "-c", "kill -9 $$"]})
executed("no-user", {"User": "nobodyhere"})
executed("no-workdir", {"WorkingDir": "/not/here"})
executed("no-program", {"Cmd": ["nothere"]})
executed("no-permission", {"Cmd": ["/etc/passwd"]})
executed("directory", {"Cmd": ["/etc"]})
executed("no-command", {"Cmd": []})
executed("bad-env", {"Env": ["=x"]})

# The rest.
case("init", {"Init": True})
case("init-tty-user", {"Init": True}, {"Tty": True, "User": "alice"})
case("init-host-pid", {"Init": True, "PidMode": "host"})
case("annotations", {"Annotations": {"org.example.a": "1", "b": ""}})
case("runtime-runc", {"Runtime": "runc"})
case("log-none", {"LogConfig": {"Type": "none"}})
case("log-json-options", {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "3", "labels": "a"}}})
case("log-local", {"LogConfig": {"Type": "local", "Config": {"max-size": "20k", "compress": "false", "mode": "non-blocking"}}})
case("restart-policy", {"RestartPolicy": {"Name": "unless-stopped"}}, {
    "Cmd": ["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"]},
    calls=(("READY", "ready", None), ("POST", "/containers/@id/stop", None)))
case("exit-code", config={"Cmd": ["sh", "-c", "exit 42"]})
case("killed-by-signal", config={"Cmd": ["sh", "-c", "kill -9 $$"]})
case("stop-signal", {"Init": False}, {
    "Cmd": ["sh", "-c", "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done"], "StopSignal": "USR1"},
    calls=(("READY", "ready", None), ("POST", "/containers/@id/stop", None)))
case("stop-timeout", {}, {"Cmd": ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], "StopTimeout": 1},
     calls=(("READY", "ready", None), ("GET", "/containers/@id/json", None), ("POST", "/containers/@id/stop", None)))
case("paused", {}, {"Cmd": ["sh", "-c", "echo ready; exec sleep 600"]},
     calls=(("READY", "ready", None), ("POST", "/containers/@id/pause", None), ("GET", "/containers/@id/json", None),
            ("POST", "/containers/@id/unpause", None), ("POST", "/containers/@id/kill?signal=KILL", None)))
case("old-links-empty", {"Links": [], "PortBindings": {}, "PublishAllPorts": False, "Cgroup": "", "Isolation": "default"})
case("windows-fields", {"CpuCount": 2, "CpuPercent": 50})
