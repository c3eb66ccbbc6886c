"""What a container sees from inside: mounts, devices, limits, identity, namespaces.

The expectations are dockerd's; where dockerd on cgroup v1 differs by intent (the host's cgroup
namespace) the test says so.
"""
import io
import pathlib
import subprocess
import tarfile

import mkimage
import pytest

from engine import wait_for

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_ERROR = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "
FLAGS = "nosuid,nodev,noexec,relatime"


def inside(engine, script, *options):
    """Run a script in a container with network none; its output as lines."""
    return engine.ok("run", "--rm", "--network", "none", *options, "busybox", "sh", "-c", script).splitlines()


def mounts(engine, *options):
    """Mount point -> (propagation and mount options, type, super options)."""
    table = {}
    for line in inside(engine, "cat /proc/self/mountinfo", *options):
        mount, fs = line.split(" - ", 1)
        mount, fs = mount.split(" "), fs.split(" ")
        assert mount[4] not in table, f"two mounts on {mount[4]}"
        table[mount[4]] = (" ".join(mount[5:]), fs[0], fs[2])
    return table


@pytest.mark.gantry
def test_the_root_is_what_every_way_leads_to(engine):
    """Nothing of the keeper's is seen below it, and it is no chroot to the kernel."""
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    cid = engine.ok("run", "-d", "--network", "none", *options, "busybox", "sh", "-c", "touch /mark; sleep 1000")
    wait_for(lambda: engine.ok("exec", cid, "ls", "/mark") == "/mark", "the mark")
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", cid)
    enter = ["nsenter", "-t", pid, "-m"]
    assert subprocess.run([*enter, "ls", "/mark"], capture_output=True, text=True).stdout == "/mark\n"
    assert engine.ok("exec", cid, "sh", "-c", "cd /..; ls -d mark") == "mark"
    # Forbidden in a chroot.
    assert engine.ok("exec", cid, "unshare", "-U", "-r", "id", "-u") == "0"
    engine.ok("rm", "-f", cid)


def test_mount_table(engine):
    table = mounts(engine)
    want = {
        "/": ("rw,relatime", "overlay"),
        "/proc": (f"rw,{FLAGS}", "proc"),
        "/dev": ("rw,nosuid", "tmpfs"),
        "/dev/pts": ("rw,nosuid,noexec,relatime", "devpts"),
        "/dev/shm": (f"rw,{FLAGS}", "tmpfs"),
        "/dev/mqueue": (f"rw,{FLAGS}", "mqueue"),
        "/sys": (f"ro,{FLAGS}", "sysfs"),
        **{f"/proc/{name}": (f"ro,{FLAGS}", "proc") for name in ("bus", "fs", "irq", "sys")},
        **{f"/proc/{name}": ("rw,nosuid", "tmpfs") for name in ("interrupts", "keys", "timer_list")},
        "/sys/firmware": ("ro,relatime", "tmpfs"),
    }
    for point, (options, kind) in want.items():
        assert table[point][:2] == (options, kind), point
    # Nothing propagates to the host or from it: no optional field, so only the options are left.
    assert not [p for p, (options, _, _) in table.items() if " " in options]
    for name in ("hosts", "hostname", "resolv.conf"):
        assert table[f"/etc/{name}"][0].startswith("rw")
    assert "size=65536k" in table["/dev/shm"][2]
    assert "/dev/console" not in table
    assert mounts(engine, "-t")["/dev/console"][1] == "devpts"


def test_mount_table_of_read_only_and_privileged(engine):
    table = mounts(engine, "--read-only", "--tmpfs", "/scratch:size=1m,mode=700,exec", "--shm-size", "1m")
    assert table["/"][0].startswith("ro") and table["/etc/hosts"][0].startswith("ro")
    assert table["/scratch"][0] == "rw,nosuid,nodev,relatime"
    assert {"size=1024k", "mode=700"} <= set(table["/scratch"][2].split(","))
    assert "size=1024k" in table["/dev/shm"][2]
    table = mounts(engine, "--privileged")
    assert table["/sys"][0] == f"rw,{FLAGS}"
    assert not {"/proc/sys", "/proc/keys", "/sys/firmware"} & set(table)


def test_cgroup_hierarchies_are_shown_read_only(engine):
    table = {p: m for p, m in mounts(engine).items() if p.startswith("/sys/fs/cgroup")}
    if table["/sys/fs/cgroup"][1] == "cgroup2":
        assert table["/sys/fs/cgroup"][0] == f"ro,{FLAGS}"
        return
    assert table["/sys/fs/cgroup"][1:] == ("tmpfs", "rw,mode=755")
    hosts = [line.split(":")[1] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
    shown = [m[2] for p, m in table.items() if p != "/sys/fs/cgroup"]
    for controllers in filter(None, hosts):
        assert any(set(controllers.split(",")) <= set(options.split(",")) for options in shown), controllers
    assert {m[0] for p, m in table.items() if p != "/sys/fs/cgroup"} == {f"ro,{FLAGS}"}


def test_devices(engine):
    out = inside(engine, "cd /dev; stat -c '%n %a %t:%T %F' null zero full random urandom tty pts/ptmx; "
                         "for l in fd stdin stdout stderr ptmx; do readlink $l; done; stat -c %a shm mqueue pts")
    assert out[:7] == [f"{name} 666 {device} character special file" for name, device in
                       (("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"),
                        ("tty", "5:0"), ("pts/ptmx", "5:2"))]
    assert out[7:12] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert out[12:] == ["1777", "1777", "755"]


def test_device_rules(engine):
    """Any node may be made, only the usual ones (and net/tun) opened."""
    out = inside(engine, """
        mknod /tmp/disk b 7 0 && mknod /tmp/mem c 1 1 && mknod /tmp/tun c 10 200 && mknod /tmp/zero c 1 5
        for n in disk mem tun zero; do (: < /tmp/$n) 2>&1; echo "$n $?"; done""")
    refused = [line for line in out if "Operation not permitted" in line]
    assert len(refused) == 2, out
    assert {line for line in out if line.endswith(" 0")} >= {"zero 0"}
    assert not [line for line in out if "tun" in line and "not permitted" in line]
    out = inside(engine, "mknod /tmp/mem c 1 1; (: < /tmp/mem) 2>&1; echo $?", "--privileged")
    assert not [line for line in out if "not permitted" in line]


def test_process(engine):
    """PID 1, which is the program itself: session, descriptors, signals, masks, threads."""
    def of_self(*program):
        return engine.ok("run", "--rm", "--network", "none", "busybox", *program)
    ppid, group, session, tty, foreground = of_self("cat", "/proc/self/stat").split()[3:8]
    assert (ppid, group, session, tty, foreground) == ("0", "1", "1", "0", "-1")
    assert of_self("ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is the open directory
    status = dict(line.split(":\t") for line in of_self("cat", "/proc/self/status").splitlines())
    assert (status["Umask"], status["Threads"], status["Pid"]) == ("0022", "1", "1")
    assert {status[f"Sig{n}"] for n in ("Blk", "Ign", "Cgt")} == {"0" * 16}
    assert (status["Uid"], status["Gid"]) == ("0\t0\t0\t0",) * 2
    assert status["Groups"].split() == ["0"]
    assert (status["CapInh"], status["CapAmb"]) == ("0" * 16,) * 2
    assert {status[f"Cap{n}"] for n in ("Prm", "Eff", "Bnd")} == {"00000000a80425fb"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "2")
    assert of_self("cat", "/proc/self/oom_score_adj") == "0"


def test_namespaces_are_new(engine):
    names = ["ipc", "mnt", "net", "pid", "uts"]
    out = inside(engine, "for n in ipc mnt net pid uts; do readlink /proc/self/ns/$n; done")
    assert [line.split(":")[0] for line in out] == names
    assert not set(out) & {str(pathlib.Path(f"/proc/self/ns/{n}").readlink()) for n in names}


@pytest.mark.parametrize("given,want", [
    (["B=1", "A=2", "B=3", "HOME=", "Z=1"], [f"PATH={PATH}", "HOSTNAME=box", "A=2", "B=3", "Z=1", "HOME=/root"]),
    (["HOME=/y", "HOSTNAME", "A=1", "PATH=/bin", "A"], ["PATH=/bin", "HOME=/y", "A=1"]),
])
def test_environment_order(engine, given, want):
    """PATH, HOSTNAME, then the configured ones, the last of a name where it stands; HOME last unless given.

    By the API: the CLI sends them in any order."""
    _, made = engine.json("POST", "/v1.48/containers/create", {
        "Image": "busybox", "Hostname": "box", "Cmd": ["/bin/cat", "/proc/self/environ"], "Env": given,
        "HostConfig": {"NetworkMode": "none"}})
    assert engine.ok("start", "-a", made["Id"]).strip("\0").split("\0") == want
    engine.ok("rm", made["Id"])


@pytest.mark.parametrize("options,want", [
    (["--cap-drop", "ALL"], "0000000000000000"),
    (["--cap-drop", "cap_chown"], "00000000a80425fa"),
    (["--cap-add", "NET_ADMIN"], "00000000a80435fb"),
])
def test_capabilities(engine, options, want):
    out = inside(engine, "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | sort -u", *options)
    assert out == [want]


def test_unknown_capability_is_refused_at_create(engine):
    for key in ("CapAdd", "CapDrop"):
        assert engine.json("POST", "/v1.48/containers/create", {"Image": "busybox", "HostConfig": {key: ["nope"]}}) == (
            400, {"message": f'invalid {key}: unknown capability: "CAP_NOPE"'})


def test_ulimits(engine):
    out = inside(engine, "cat /proc/self/limits", "--ulimit", "nofile=100:200", "--ulimit", "core=0")
    rows = {line[:25].strip(): line[25:].split()[:2] for line in out}
    assert (rows["Max open files"], rows["Max core file size"]) == (["100", "200"], ["0", "0"])


def test_sysctls_of_own_namespaces(engine):
    names = "kernel.shmmax", "kernel.msgmax", "fs.mqueue.msg_max", "net.ipv4.ip_forward"
    options = [word for name in names for word in ("--sysctl", f"{name}=1")]
    out = inside(engine, "cd /proc/sys; cat " + " ".join(name.replace(".", "/") for name in names), *options)
    assert out == ["1"] * 4


@pytest.mark.parametrize("name,file,network,reason", [
    ("vm.swappiness", "vm/swappiness", "none", '"vm.swappiness" is not in a separate kernel namespace'),
    ("kernel/core_pattern", "kernel/core_pattern", "none", '"kernel.core_pattern" is not in a separate kernel namespace'),
    ("net.ipv4.tcp_retries2", "net/ipv4/tcp_retries2", "host",
     '"net.ipv4.tcp_retries2" not allowed in host network namespace'),
    ("kernel.hostname", "kernel/hostname", "none",
     '"kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field'),
])
def test_sysctls_of_the_host_are_never_written(engine, name, file, network, reason):
    file = pathlib.Path("/proc/sys") / file
    before = file.read_text()
    value = "15" if before.strip() != "15" else "14"  # harmless if it should be written after all
    _, made = engine.json("POST", "/v1.48/containers/create", {
        "Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network, "Sysctls": {name: value}}})
    status, doc = engine.json("POST", f"/v1.48/containers/{made['Id']}/start")
    after = file.read_text()
    if after != before:
        file.write_text(before)
    engine.ok("rm", "-f", made["Id"])
    assert after == before
    assert status == 500 and doc["message"].endswith(f"OCI runtime create failed: runc create failed: sysctl {reason}")


@pytest.mark.parametrize("options,code,text", [
    (["-u", "nobody-here"], 125, "unable to find user nobody-here: no matching entries in passwd file"),
    (["-u", "0:nogroup-here"], 125, "unable to find group nogroup-here: no matching entries in group file"),
    (["-u", "4294967296"], 125, "uids and gids must be in range 0-2147483647"),
    (["-u", "-1"], 125, "uids and gids must be in range 0-2147483647"),
    (["--group-add", "nogroup-here"], 125, "unable to find group nogroup-here: no matching entries in group file"),
    (["-w", "/etc/passwd"], 125, "Cannot mkdir: /etc/passwd is not a directory"),
    (["-h", "x" * 65], 125, INIT_ERROR + "sethostname: invalid argument"),
    (["--ulimit", "nofile=100000000"], 125,
     INIT_ERROR + "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted"),
    (["--sysctl", "net.ipv4.ip_forward=x"], 125, INIT_ERROR + 'failed to write sysctl net.ipv4.ip_forward = "x": write '),
    (["--tmpfs", "/x:foo"], 125, 'invalid tmpfs option "foo"'),
    (["--tmpfs", "/x/..:size=1m"], 125, "invalid specification: destination can't be '/'"),
    (["--entrypoint", "/etc"], 126, INIT_ERROR + 'exec: "/etc": is a directory: permission denied'),
    (["--entrypoint", "/etc/passwd/x"], 125, INIT_ERROR + 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory: '
     "Are you trying to mount a directory onto a file (or vice-versa)?"),
])
def test_start_failures(engine, options, code, text):
    done = engine.cli("run", "--rm", "--network", "none", *options, "busybox", "true")
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert engine.ok("ps", "-aq") == ""


def test_failed_start_leaves_a_created_container(engine):
    name = engine.ok("create", "--network", "none", "busybox", "nosuch")
    done = engine.cli("start", name)
    assert done.returncode == 1 and "executable file not found in $PATH" in done.stderr
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["Running"], state["ExitCode"], state["Pid"]) == ("created", False, 127, 0)
    assert state["Error"].endswith('exec: "nosuch": executable file not found in $PATH')
    assert state["StartedAt"] == "0001-01-01T00:00:00Z"
    engine.ok("rm", name)


def test_programs_the_kernel_refuses(engine, base_layer, workdir):
    """Found and executable, but execve fails: the message is on stderr of the container, the code is 255."""
    bad = {"garbage": b"\1\2\3", "script": b"#!/nosuch\n", "no-shebang": b"echo hi\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in bad.items():
            entry = tarfile.TarInfo(f"bad/{name}")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    archive = workdir / "bad.tar"
    archive.write_bytes(mkimage.docker_archive("bad:latest", [base_layer, buffer.getvalue()]))
    engine.ok("load", "-i", str(archive))
    for name, text in (("garbage", "exec format error"), ("script", "no such file or directory"),
                       ("no-shebang", "exec format error")):
        done = engine.cli("run", "--rm", "--network", "none", "bad", f"/bad/{name}")
        assert (done.returncode, done.stderr.strip()) == (255, f"exec /bad/{name}: {text}")
    engine.ok("rmi", "bad")


def test_working_directory_is_cleaned_and_made(engine):
    name = engine.ok("create", "--network", "none", "-w", "/a b/../c/./d/", "busybox", "pwd")
    assert engine.inspect(name)["Config"]["WorkingDir"] == "/c/d"
    assert engine.ok("start", "-a", name) == "/c/d"
    engine.ok("rm", name)
    out = inside(engine, "stat -c '%a %u:%g' /x /x/y; pwd", "-u", "1000", "-w", "/x/y")
    assert out == ["755 0:0", "755 0:0", "/x/y"]


def test_etc_files(engine):
    out = inside(engine, "cat /etc/resolv.conf", "--dns", "1.1.1.1", "--dns-search", "foo", "--dns-opt", "ndots:3")
    assert out[0] == "# Generated by Docker Engine."
    assert [line for line in out if line and not line.startswith("#")] == [
        "nameserver 1.1.1.1", "search foo", "options ndots:3"]
    assert "# Overrides: [nameservers search options]" in out
    out = inside(engine, "cat /etc/hosts", "--add-host", "a:1.2.3.4", "--add-host", "b:::1")
    assert out[-2:] == ["1.2.3.4\ta", "::1\tb"]
    status, doc = engine.json("POST", "/v1.48/containers/create",
                              {"Image": "busybox", "HostConfig": {"ExtraHosts": ["a:1.2.3"]}})
    assert (status, doc) == (400, {"message": 'invalid IP address in add-host: "1.2.3"'})


def test_joining_a_network_that_is_not_there(engine):
    name = engine.ok("create", "--network", "container:nosuch", "busybox", "true")
    assert engine.json("POST", f"/v1.48/containers/{name}/start") == (
        500, {"message": "joining network namespace of container: No such container: nosuch"})
    engine.ok("rm", name)


def test_out_of_memory_is_said(engine):
    name = engine.ok("run", "-d", "--network", "none", "-m", "16m", "--memory-swap", "16m", "busybox",
                     "sh", "-c", "exec tail /dev/zero")
    assert engine.ok("wait", name) == "137"
    state = engine.inspect(name)["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
    engine.ok("rm", name)


def test_fork_bomb_is_bounded(engine):
    """The limit of processes holds, and the container ends when it is told to."""
    name = engine.ok("run", "-d", "--network", "none", "--pids-limit", "30", "busybox", "sh", "-c",
                     "f() { f | f & }; f 2>/dev/null & exec tail -f /dev/null")
    pid = engine.inspect(name)["State"]["Pid"]
    status = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = dict(line.split(":", 2)[1:] for line in status)
    group = pathlib.Path("/sys/fs/cgroup", "pids" if "pids" in paths else "") / paths.get("pids", paths[""])[1:]
    assert 1 <= int((group / "pids.current").read_text()) <= 30
    engine.ok("rm", "-f", name)


def test_cgroup_parent(engine):
    name = engine.ok("run", "-d", "--network", "none", "--cgroup-parent", "/gantry-test-parent", "busybox", "sleep", "600")
    info = engine.inspect(name)
    paths = [line.split(":")[2] for line in pathlib.Path(f"/proc/{info['State']['Pid']}/cgroup").read_text().splitlines()]
    assert set(paths) == {f"/gantry-test-parent/{info['Id']}"}
    engine.ok("rm", "-f", name)
    for dir in pathlib.Path("/sys/fs/cgroup").glob("**/gantry-test-parent"):
        dir.rmdir()
