"""Fields of HostConfig, seen from inside the container: namespaces, devices, limits, and `update`.

Every test holds for dockerd too. What depends on the kernel (weights of block I/O, version of cgroups) is asked of the
kernel first.
"""

import contextlib
import glob
import json
import os
import pathlib
import stat
import subprocess
import time
import uuid

import pytest

from engine import wait_for

MIB = 1 << 20
V1 = os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")
IMAGE = "busybox"


def create(engine, host=None, cmd="sleep 600", name=None, **config):
    body = {"Image": IMAGE, "Cmd": ["sh", "-c", cmd], "HostConfig": {"NetworkMode": "none", **(host or {})}, **config}
    path = "/containers/create" + (f"?name={name}" if name else "")
    status, document = engine.json("POST", path, body)
    return status, document


def made(engine, host=None, cmd="sleep 600", **kw):
    status, document = create(engine, host, cmd, **kw)
    assert status == 201, document
    return document["Id"]


def started(engine, host=None, cmd="sleep 600", **kw):
    id = made(engine, host, cmd, **kw)
    status, document = engine.json("POST", f"/containers/{id}/start")
    assert status == 204, document
    return id


def refused_at_start(engine, host, **kw):
    id = made(engine, host, **kw)
    status, document = engine.json("POST", f"/containers/{id}/start")
    state = engine.inspect(id)["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 128)
    assert state["Error"] == document["message"]
    engine.ok("rm", id)
    return status, document["message"].replace(id, "ID")


def output(engine, host, cmd, **kw):
    """What a container writes in its life."""
    id = started(engine, host, cmd, **kw)
    engine.ok("wait", id)
    text = engine.cli("logs", id)
    engine.ok("rm", id)
    return (text.stdout + text.stderr).strip()


def namespace(kind, pid="self"):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def init_pid(engine, id):
    return engine.inspect(id)["State"]["Pid"]


def group_file(engine, id, controller, v1, v2):
    """A file of a running container's group."""
    paths = {}
    for line in pathlib.Path(f"/proc/{init_pid(engine, id)}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths.update({name: path for name in names.split(",")})
    if controller in paths:
        return pathlib.Path(f"/sys/fs/cgroup/{controller}{paths[controller]}/{v1}").read_text().strip()
    return pathlib.Path(f"/sys/fs/cgroup{paths['']}/{v2}").read_text().strip()


# Namespaces.

@pytest.mark.parametrize("kind, host", [
    ("pid", {"PidMode": "host"}), ("ipc", {"IpcMode": "host"}), ("uts", {"UTSMode": "host"}),
    ("cgroup", {"CgroupnsMode": "host"})])
def test_host_namespaces(engine, kind, host):
    assert output(engine, host, f"readlink /proc/self/ns/{kind}") == namespace(kind)
    others = {"pid", "ipc", "uts"} - {kind}
    for other in others:
        assert output(engine, host, f"readlink /proc/self/ns/{other}") != namespace(other)


def test_private_namespaces(engine):
    script = "cut -d: -f3 /proc/self/cgroup | sort -u"
    assert output(engine, {"CgroupnsMode": "private"}, script) == "/"
    id = started(engine, {"CgroupnsMode": "private"})
    assert engine.ok("exec", id, "sh", "-c", script) == "/"
    for kind in ("pid", "ipc", "uts"):
        assert output(engine, {"IpcMode": "private"}, f"readlink /proc/self/ns/{kind}") != namespace(kind)


def test_default_modes_are_shown(engine):
    host = engine.inspect(made(engine))["HostConfig"]
    assert (host["IpcMode"], host["PidMode"], host["UTSMode"], host["UsernsMode"]) == ("private", "", "", "")
    assert host["CgroupnsMode"] == ("host" if V1 else "private")
    assert host["SecurityOpt"] is None
    for shared in ({"PidMode": "host"}, {"IpcMode": "host"}, {"Privileged": True}):
        assert engine.inspect(made(engine, shared))["HostConfig"]["SecurityOpt"] == ["label=disable"]


def test_host_pid_sees_the_host_and_ends_with_its_first_process(engine):
    # The first process leaves another one behind, which the kernel does not end by itself here.
    mark = f"600.{uuid.uuid4().int % 10**9}"
    id = started(engine, {"PidMode": "host"}, f"[ -d /proc/{os.getpid()} ] && echo seen; sleep {mark} & sleep 0.3")
    engine.ok("wait", id)
    assert engine.ok("logs", id) == "seen"

    def left():
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if mark.encode() in pathlib.Path(path).read_bytes().split(b"\0"):
                    return True
        return False
    wait_for(lambda: not left(), "the end of the process that was left behind")


def test_host_pid_takes_an_oom_score_for_itself_alone(engine):
    out = output(engine, {"PidMode": "host", "OomScoreAdj": 321}, "cat /proc/self/oom_score_adj /proc/1/oom_score_adj")
    assert out.split() == ["321", pathlib.Path("/proc/1/oom_score_adj").read_text().strip()]


def test_pid_of_another_container(engine):
    donor = started(engine)
    short = donor[:12]
    id = started(engine, {"PidMode": f"container:{short}"}, "cat /proc/1/comm; echo; echo pid $$; sleep 600")
    assert engine.inspect(id)["HostConfig"]["PidMode"] == f"container:{donor}"
    assert namespace("pid", init_pid(engine, id)) == namespace("pid", init_pid(engine, donor))
    assert namespace("ipc", init_pid(engine, id)) != namespace("ipc", init_pid(engine, donor))
    wait_for(lambda: "pid" in engine.ok("logs", id), "output")
    comm, *_, own = engine.ok("logs", id).splitlines()
    assert comm == "sleep" and own != "pid 1"
    # With the first process of the namespace everything in it ends.
    engine.ok("kill", donor)
    assert engine.ok("wait", id) == "137"
    status, document = engine.json("POST", f"/containers/{id}/start")
    assert (status, document["message"]) == (500, f"failed to join PID namespace: container {donor} is not running")


def test_an_exec_is_in_the_shared_namespaces_and_ends_with_the_container(engine):
    id = started(engine, {"PidMode": "host", "UTSMode": "host", "IpcMode": "host"})
    for kind in ("pid", "uts", "ipc"):
        assert engine.ok("exec", id, "readlink", f"/proc/self/ns/{kind}") == namespace(kind)
    client = engine.popen("exec", id, "sh", "-c", "echo up; exec sleep 600", stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "up\n"
    engine.ok("kill", id)
    assert client.wait(60) == 137
    client.stdout.close()


def test_no_init_where_there_is_a_first_process(engine):
    donor = started(engine)
    host = {"PidMode": f"container:{donor}", "Init": True}
    id = started(engine, host)
    wait_for(lambda: pathlib.Path(f"/proc/{init_pid(engine, id)}/comm").read_text() == "sleep\n", "exec of sleep")


def test_after_a_join_new_pid_namespaces_are_new(engine):
    """The keeper is back in its own namespace."""
    donor = started(engine)
    for _ in range(3):
        joined = started(engine, {"PidMode": f"container:{donor}"})
        fresh = started(engine)
        assert namespace("pid", init_pid(engine, joined)) == namespace("pid", init_pid(engine, donor))
        assert output(engine, {}, "echo $$") == "1"
        assert namespace("pid", init_pid(engine, fresh)) not in (namespace("pid"), namespace("pid", init_pid(engine, donor)))
        assert output(engine, {"PidMode": "host"}, "readlink /proc/self/ns/pid") == namespace("pid")


def test_shareable_ipc_is_shared(engine):
    donor = started(engine, {"IpcMode": "shareable", "ShmSize": 5 * MIB}, "echo hello >/dev/shm/f; echo ready; sleep 600")
    wait_for(lambda: engine.ok("logs", donor) == "ready", "the file")
    joined = started(engine, {"IpcMode": f"container:{donor}"}, "cat /dev/shm/f; df /dev/shm | tail -1; sleep 600")
    wait_for(lambda: "shm" in engine.ok("logs", joined), "output")
    hello, shm = engine.ok("logs", joined).splitlines()
    assert hello == "hello" and shm.split()[:2] == ["shm", "5120"]
    assert namespace("ipc", init_pid(engine, joined)) == namespace("ipc", init_pid(engine, donor))
    # Who joined can be joined.
    assert output(engine, {"IpcMode": f"container:{joined}"}, "cat /dev/shm/f") == "hello"


@pytest.mark.parametrize("mode", ["private", "none"])
def test_ipc_that_is_not_shareable(engine, mode):
    donor = started(engine, {"IpcMode": mode})
    assert refused_at_start(engine, {"IpcMode": f"container:{donor}"}) == (
        400, f"failed to join IPC namespace: container {donor}: non-shareable IPC "
             "(hint: use IpcMode:shareable for the donor container)")


def test_joining_what_does_not_run(engine):
    donor = made(engine, {"IpcMode": "shareable"})
    assert refused_at_start(engine, {"IpcMode": f"container:{donor}"}) == (
        409, f"failed to join IPC namespace: container {donor} is not running")
    assert refused_at_start(engine, {"PidMode": f"container:{donor}"}) == (
        500, f"failed to join PID namespace: container {donor} is not running")
    assert refused_at_start(engine, {"IpcMode": "container:"}) == (
        400, 'failed to join IPC namespace: invalid name or ID supplied: ""')


def test_ipc_none_has_no_shm(engine):
    assert "No such file" in output(engine, {"IpcMode": "none"}, "ls -d /dev/shm")


def test_host_ipc_has_the_hosts_shm(engine):
    name = f"gantry-{uuid.uuid4().hex}"
    path = pathlib.Path("/dev/shm", name)
    path.write_text("from the host")
    try:
        assert output(engine, {"IpcMode": "host"}, f"cat /dev/shm/{name}") == "from the host"
        assert "No such file" in output(engine, {}, f"cat /dev/shm/{name}")
    finally:
        path.unlink()


def test_host_uts(engine):
    assert output(engine, {"UTSMode": "host"}, "hostname") == os.uname().nodename
    before = os.uname()
    assert refused_at_start(engine, {"UTSMode": "host"}, Domainname="example.org")[0] == 500
    assert os.uname() == before


@pytest.mark.parametrize("host, config, message", [
    ({"PidMode": "bogus"}, {}, "invalid PID mode: bogus"),
    ({"PidMode": "container:"}, {}, "invalid PID mode: container:"),
    ({"PidMode": "container:nope"}, {}, "No such container: nope"),
    ({"IpcMode": "bogus"}, {}, "invalid IPC mode: bogus"),
    ({"IpcMode": "container:nope"}, {}, "No such container: nope"),
    ({"UTSMode": "container:x"}, {}, "invalid UTS mode: container:x"),
    ({"CgroupnsMode": "bogus"}, {}, "invalid cgroup namespace mode: bogus"),
    ({"UTSMode": "host"}, {"Hostname": "h"}, "conflicting options: hostname and the UTS mode"),
    ({"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 2000}, {},
     "cpu real-time runtime cannot be higher than cpu real-time period"),
    ({"MemorySwappiness": 101}, {}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"BlkioDeviceReadBps": [{"Path": "/dev/loop0", "Rate": -1}]}, {},
     "invalid JSON: json: cannot unmarshal number -1 into Go struct field .HostConfig.BlkioDeviceReadBps.0.Rate"
     " of type uint64"),
])
def test_refused_at_create(engine, host, config, message):
    assert create(engine, host, **config) == (400, {"message": message})


def test_sysctls_of_shared_namespaces(engine):
    for host, parameter, reason in [
            ({"IpcMode": "host"}, "kernel.shmmax", "is not allowed in the hosts ipc namespace"),
            ({"UTSMode": "host"}, "kernel.domainname", "is not in a separate kernel namespace")]:
        status, message = refused_at_start(engine, {**host, "Sysctls": {parameter: "1"}})
        assert status == 500 and message.endswith(f'sysctl "{parameter}" {reason}')


def test_user_namespace_mode(engine):
    id = started(engine, {"UsernsMode": "host"})
    assert engine.inspect(id)["HostConfig"]["UsernsMode"] == "host"
    assert namespace("user", init_pid(engine, id)) == namespace("user")


# Devices.

def device(path="/dev/null", target="/dev/foo", access="rwm"):
    return {"Devices": [{"PathOnHost": path, "PathInContainer": target, "CgroupPermissions": access}]}


@contextlib.contextmanager
def host_devices():
    """A directory of nodes that only this test has: a zero, and one of a group and mode of its own below it."""
    root = pathlib.Path("/dev", f"gantry-{uuid.uuid4().hex}")
    nodes = {root / "zero": 0o666, root / "sub" / "full": 0o640}
    try:
        (root / "sub").mkdir(parents=True)
        (root / "file").write_text("no device")
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(root / "sub" / "full", stat.S_IFCHR | 0o640, os.makedev(1, 7))
        os.chown(root / "sub" / "full", 12, 34)
        for path, mode in nodes.items():
            path.chmod(mode)
        (root / "link").symlink_to("sub/full")
        yield root
    finally:
        for path in [root / "file", root / "link", *nodes]:
            path.unlink(missing_ok=True)
        for path in (root / "sub", root):
            if path.is_dir():
                path.rmdir()


def test_a_device_has_the_hosts_owner_and_mode(engine):
    with host_devices() as root:
        for source in ("sub/full", "link"):
            out = output(engine, device(f"{root}/{source}", "/dev/x/y"), "stat -c '%F %t:%T %a %u:%g' /dev/x/y")
            assert out == "character special file 1:7 640 12:34"


def test_a_directory_of_devices(engine):
    with host_devices() as root:
        out = output(engine, device(str(root), "/dev/here"),
                     "cd /dev/here; find . -type c | sort; ls -d file link 2>/dev/null; head -c 2 zero | wc -c")
        assert out.split() == ["./sub/full", "./zero", "2"]


def test_a_device_outside_of_dev(engine):
    assert output(engine, device("/dev/zero", "/opt/a/zero"), "head -c 3 /opt/a/zero | wc -c") == "3"


# Not one of the usual nodes, and anybody may open it whom the group lets.
UNUSUAL = next((p for p in ("/dev/fuse", "/dev/loop-control", "/dev/hwrng") if os.path.exists(p)), None)


@pytest.mark.skipif(UNUSUAL is None, reason="no device to try")
def test_access_to_a_device(engine):
    """Only what is asked for is allowed."""
    read, write = "dd if=/dev/k of=/dev/null count=0 2>&1", "dd if=/dev/null of=/dev/k count=0 2>&1"
    for access, readable, writable in (("r", True, False), ("w", False, True), ("rw", True, True)):
        for command, allowed in ((read, readable), (write, writable)):
            out = output(engine, device(UNUSUAL, "/dev/k", access), command)
            assert ("not permitted" not in out) == allowed, (access, command, out)


@pytest.mark.skipif(UNUSUAL is None, reason="no device to try")
def test_device_rules(engine):
    """mknod is allowed to all; opening needs the rule."""
    number = os.stat(UNUSUAL).st_rdev
    major, minor = os.major(number), os.minor(number)
    command = f"mknod /tmp/k c {major} {minor}; dd if=/tmp/k of=/dev/null count=0 2>&1"
    assert "not permitted" in output(engine, {}, command)
    for rule in (f"c {major}:{minor} r", f"c {major}:* rwm", "a *:* rwm"):
        assert "not permitted" not in output(engine, {"DeviceCgroupRules": [rule]}, command)


def test_privileged_sees_all_devices(engine):
    with host_devices() as root:
        out = output(engine, {"Privileged": True}, f"stat -c '%t:%T %a %u:%g' {root}/sub/full; dd if={UNUSUAL} count=0 2>&1")
        assert out.splitlines()[0] == "1:7 640 12:34" and "not permitted" not in out


@pytest.mark.parametrize("host, message", [
    (device("/dev/nope"), 'error gathering device information while adding custom device "/dev/nope": no such file or directory'),
    (device("/etc/passwd"), 'error gathering device information while adding custom device "/etc/passwd": not a device node'),
    (device("/etc"), 'error gathering device information while adding custom device "/etc": not a device node'),
    (device(access=""), "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
                        "failed: device access at 16 field cannot be empty"),
    ({"DeviceCgroupRules": ["bogus"]}, "invalid device cgroup rule format: 'bogus'"),
    ({"DeviceCgroupRules": ["c 1:3 x"]}, "invalid device cgroup rule format: 'c 1:3 x'"),
    ({"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]},
     'could not select device driver "" with capabilities: [[gpu]]'),
    ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["a/b=c"]}]},
     "CDI device injection failed: unresolvable CDI devices a/b=c"),
    ({"BlkioDeviceReadBps": [{"Path": "/dev/nope", "Rate": 1}]}, "stat /dev/nope: no such file or directory"),
])
def test_refused_at_start(engine, host, message):
    assert refused_at_start(engine, host) == (500, message)


# Limits.

BLOCK = next((p for p in ("/dev/loop0", "/dev/sda", "/dev/vda") if os.path.exists(p)), None)


@pytest.mark.skipif(BLOCK is None, reason="no block device")
@pytest.mark.parametrize("field, v1, key", [
    ("BlkioDeviceReadBps", "read_bps", "rbps"), ("BlkioDeviceWriteBps", "write_bps", "wbps"),
    ("BlkioDeviceReadIOps", "read_iops", "riops"), ("BlkioDeviceWriteIOps", "write_iops", "wiops")])
def test_block_throttles(engine, field, v1, key):
    id = started(engine, {field: [{"Path": BLOCK, "Rate": 12345678}]})
    number = os.stat(BLOCK).st_rdev
    text = group_file(engine, id, "blkio", f"blkio.throttle.{v1}_device", "io.max")
    wanted = "12345678" if V1 else f"{key}=12345678"
    line = next(line for line in text.splitlines() if line.startswith(f"{os.major(number)}:{os.minor(number)} "))
    assert wanted in line.split()
    assert engine.inspect(id)["HostConfig"][field] == [{"Path": BLOCK, "Rate": 12345678}]


def test_block_weight_or_a_warning(engine):
    host = {"BlkioWeight": 300, "BlkioWeightDevice": [{"Path": "/dev/nope", "Weight": 500}]}
    if not V1 or os.path.exists("/sys/fs/cgroup/blkio/blkio.weight"):
        pytest.skip("this kernel weighs block I/O")
    status, document = create(engine, host)
    assert (status, document["Warnings"]) == (201, [
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."])
    shown = engine.inspect(document["Id"])["HostConfig"]
    assert (shown["BlkioWeight"], shown["BlkioWeightDevice"]) == (0, [])
    engine.ok("start", document["Id"])


@pytest.mark.skipif(not V1, reason="version 1 has these")
@pytest.mark.parametrize("host, controller, file, wanted", [
    ({"MemorySwappiness": 7}, "memory", "memory.swappiness", "7"),
    ({"Memory": 64 * MIB, "OomKillDisable": True}, "memory", "memory.oom_control", "oom_kill_disable 1"),
    ({"KernelMemoryTCP": 10 * MIB}, "memory", "memory.kmem.tcp.limit_in_bytes", str(10 * MIB)),
    ({"CpuRealtimePeriod": 500000}, "cpu", "cpu.rt_period_us", "500000"),
])
def test_limits_of_version_1(engine, host, controller, file, wanted):
    if not os.path.exists(f"/sys/fs/cgroup/{controller}/{file}"):
        pytest.skip("this kernel has no such file")
    id = started(engine, host)
    if not (engine.external and "KernelMemoryTCP" in host):  # dockerd takes it, and runc does not set it
        assert group_file(engine, id, controller, file, "").splitlines()[0] == wanted
    shown = engine.inspect(id)["HostConfig"]
    assert {k: shown[k] for k in host} == host


def test_oom_kill_disable_without_a_limit_is_warned_of(engine):
    _, document = create(engine, {"OomKillDisable": True})
    assert document["Warnings"] == [
        "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out"
        " of resources."]


# update.

def update(engine, id, change):
    status, document = engine.json("POST", f"/containers/{id}/update", change)
    if isinstance(document, dict) and "message" in document:
        return status, document["message"].replace(id, "ID")
    return status, document["Warnings"]


def test_update_of_a_running_container(engine):
    id = started(engine, {"Memory": 128 * MIB, "MemorySwap": 256 * MIB})
    for change, controller, v1, v2, wanted in [
            ({"Memory": 64 * MIB}, "memory", "memory.limit_in_bytes", "memory.max", str(64 * MIB)),
            ({"Memory": 300 * MIB, "MemorySwap": 400 * MIB}, "memory", "memory.limit_in_bytes", "memory.max", str(300 * MIB)),
            ({"MemoryReservation": 32 * MIB}, "memory", "memory.soft_limit_in_bytes", "memory.low", str(32 * MIB)),
            ({"CpuPeriod": 50000, "CpuQuota": 25000}, "cpu", "cpu.cfs_quota_us", "cpu.max", "25000"),
            ({"CpusetCpus": "0"}, "cpuset", "cpuset.cpus", "cpuset.cpus", "0"),
            ({"PidsLimit": 77}, "pids", "pids.max", "pids.max", "77"),
            ({"PidsLimit": 0}, "pids", "pids.max", "pids.max", "max"),
            ({"CpuQuota": -1}, "cpu", "cpu.cfs_quota_us", "cpu.max", "-1" if V1 else "max")]:
        assert update(engine, id, change) == (200, None)
        assert group_file(engine, id, controller, v1, v2).split()[0] == wanted
        shown = engine.inspect(id)["HostConfig"]
        assert {key: shown[key] for key in change} == change
    if V1:
        assert update(engine, id, {"CpuShares": 512}) == (200, None)
        assert group_file(engine, id, "cpu", "cpu.shares", "") == "512"
        # As seen from inside.
        assert engine.inspect(id)["HostConfig"]["Memory"] == 300 * MIB


def test_update_of_nano_cpus(engine):
    id = started(engine)
    assert update(engine, id, {"NanoCpus": 500_000_000}) == (200, None)
    assert group_file(engine, id, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert update(engine, id, {"CpuQuota": 20000}) == (
        409, "Cannot update container ID: Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
    assert group_file(engine, id, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"


def test_update_before_the_start_counts_at_the_start(engine):
    id = made(engine, {"PidsLimit": 10})
    assert update(engine, id, {"PidsLimit": 55, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}) == (200, None)
    engine.ok("start", id)
    assert group_file(engine, id, "pids", "pids.max", "pids.max") == "55"
    assert engine.inspect(id)["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}


def test_update_of_the_restart_policy_is_followed(engine):
    id = started(engine, cmd="sleep 1; exit 3")
    assert update(engine, id, {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}) == (200, None)
    wait_for(lambda: engine.inspect(id)["RestartCount"] == 1, "a restart by the new policy")
    assert update(engine, id, {"RestartPolicy": {"Name": "no"}}) == (200, None)


def test_update_by_the_client(engine):
    id = started(engine)
    assert engine.ok("update", "--pids-limit", "33", "-m", "100m", "--memory-swap", "200m", "--restart", "always", id) == id
    host = engine.inspect(id)["HostConfig"]
    assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (33, 100 * MIB, 200 * MIB)
    assert host["RestartPolicy"]["Name"] == "always"
    engine.ok("update", "--restart", "no", id)


@pytest.mark.parametrize("change, status, message", [
    ({"Memory": 300 * MIB}, 409, "Cannot update container ID: Memory limit should be smaller than already set memoryswap"
                                 " limit, update the memoryswap at the same time"),
    ({"Memory": 1}, 400, "Minimum memory limit allowed is 6MB"),
    ({"PidsLimit": 5, "NanoCpus": 10**9}, 409,
     "Cannot update container ID: Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"),
    ({"CpuShares": 700, "NanoCpus": 1, "CpuQuota": 5000}, 400,
     "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
    ({"CpusetCpus": "7777"}, 400, None),
    ({"RestartPolicy": {"Name": "bogus"}, "PidsLimit": 5}, 400,
     "invalid restart policy: unknown policy 'bogus'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    ({"RestartPolicy": {"Name": "always"}, "PidsLimit": 5}, 409,
     "Cannot update container ID: Restart policy cannot be updated because AutoRemove is enabled for the container"),
    ({"Memory": "x"}, 400,
     "invalid JSON: json: cannot unmarshal string into Go struct field UpdateConfig.Memory of type int64"),
])
def test_a_refused_update_changes_nothing(engine, change, status, message):
    id = started(engine, {"Memory": 128 * MIB, "MemorySwap": 256 * MIB, "CpuPeriod": 100000, "CpuQuota": 50000,
                          "PidsLimit": 99, "AutoRemove": True})
    before = engine.inspect(id)["HostConfig"]
    answer = update(engine, id, change)
    assert answer[0] == status and message in (None, answer[1])
    assert engine.inspect(id)["HostConfig"] == before
    assert group_file(engine, id, "pids", "pids.max", "pids.max") == "99"
    assert group_file(engine, id, "memory", "memory.limit_in_bytes", "memory.max") == str(128 * MIB)
    assert group_file(engine, id, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"


def test_a_limit_that_the_kernel_refuses(engine):
    if not V1:
        pytest.skip("version 2 takes any")
    id = started(engine)
    status, message = update(engine, id, {"MemorySwap": 128 * MIB})
    assert status == 500 and message.startswith("Cannot update container ID: ")
    assert engine.inspect(id)["HostConfig"]["MemorySwap"] == 0
    assert update(engine, id, {"CpuShares": 1})[0] == 500
    assert engine.inspect(id)["HostConfig"]["CpuShares"] == 0


def test_update_of_nothing_and_of_nobody(engine):
    id = made(engine)
    assert update(engine, id, {}) == (200, None)
    assert engine.json("POST", "/containers/nope/update", {}) == (404, {"message": "No such container: nope"})
    if V1 and not os.path.exists("/sys/fs/cgroup/blkio/blkio.weight"):
        assert update(engine, id, {"BlkioWeight": 300}) == (200, [
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."])


def test_update_is_an_event(engine):
    id = started(engine)
    update(engine, id, {"PidsLimit": 50})
    now = time.time()
    status, _, data = engine.http("GET", f"/events?since={now - 60:.0f}&until={now:.9f}")
    events = [json.loads(line) for line in data.splitlines()]
    assert status == 200 and "update" in [e["Action"] for e in events if e["Actor"]["ID"] == id]


def test_update_survives_the_daemon(engine):
    """What was answered is on disk."""
    if engine.external:
        pytest.skip("not ours to kill")
    id = started(engine, {"PidsLimit": 20})
    assert update(engine, id, {"PidsLimit": 40}) == (200, None)
    engine.kill9()
    engine.start()
    assert engine.inspect(id)["HostConfig"]["PidsLimit"] == 40
    assert group_file(engine, id, "pids", "pids.max", "pids.max") == "40"
    assert update(engine, id, {"PidsLimit": 60}) == (200, None)
    assert group_file(engine, id, "pids", "pids.max", "pids.max") == "60"


def test_a_joined_pid_namespace_is_the_others(engine):
    """Entered last: everything else about the container is its own."""
    engine.ok("run", "-d", "--name", "donor", "--network", "none", "busybox", "sleep", "600")
    beside = ("--pid", "container:donor", "--network", "none")
    out = engine.ok("run", "--rm", *beside, "--hostname", "mine", "--oom-score-adj", "77", "--user", "1000", "busybox", "sh", "-c",
                    "tr '\\0' ' ' < /proc/1/cmdline; echo; hostname; id -u; cat /proc/self/oom_score_adj; echo $PPID;"
                    "cat /proc/$$/stat | cut -d' ' -f5,6; echo $$; ! echo x 2>/dev/null > /proc/sys/kernel/domainname")
    lines = out.splitlines()
    assert lines[:5] == ["sleep 600 ", "mine", "1000", "77", "0"], lines
    # As with an exec: no parent in sight, a session of its own.
    assert lines[5].split() == [lines[6]] * 2 and lines[6] != "1", lines
    assert engine.ok("run", "--rm", "-t", *beside, "busybox", "sh", "-c", "tty; echo hi > /dev/tty").split() == ["/dev/pts/0", "hi"]
    done = engine.cli("run", "--rm", *beside, "busybox", "/nope")
    assert done.returncode == 127 and "no such file or directory" in done.stderr
    engine.ok("run", "-d", "--name", "guest", *beside, "busybox", "sleep", "601")
    assert "sleep 601" in engine.ok("exec", "donor", "ps")
    assert engine.ok("exec", "guest", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline") == "sleep 600 "
    # The first process of the namespace takes the others with it.
    engine.ok("kill", "donor")
    assert engine.ok("wait", "guest") == "137"
    engine.ok("rm", "donor", "guest")


def test_storage_options(engine):
    """Without project quotas below the data root a size is refused, as by dockerd; tests/guest has a disk with them."""
    def ask(**options):
        status, answer = engine.json("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"StorageOpt": options}})
        return status, answer.get("message")
    status, text = ask(nothere="1")
    assert status in (400, 500) and text == "Unknown option nothere"
    status, text = ask(size="1g")
    if status == 201:
        pytest.skip("the data root's file system has project quotas")
    assert (status, text) == (500, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    assert engine.ok("ps", "-aq") == ""
