"""`--userns-remap`: containers whose root is nobody on the host."""
import fcntl
import os
import pathlib
import subprocess
import tempfile

import leaks
import pytest
import test_faults
from engine import Daemon, gantryd_binary, wait_for
from faults import FaultyDaemon
from test_copy import FIFO, archive, members, message, tar
from test_exec import create, ended, start

pytestmark = pytest.mark.gantry
UID, GID = 100_000, 200_000
MAP_UID, MAP_GID = f"0 {UID} 65536", f"0 {GID} 65536"
NS_GET_USERNS = 0xB701


class OwnEtc:
    """A gantryd that sees files of its own for users and subordinate ids."""

    def remap(self):
        self.args += ["--userns-remap", "dockremap"]
        self.etc = self.workdir / "etc"
        self.etc.mkdir()
        for name in ("passwd", "group"):
            own = "dockremap:x:899:899::/:/bin/false\n" if name == "passwd" else "dockremap:x:899:\n"
            (self.etc / name).write_text(pathlib.Path("/etc", name).read_text() + own)
        (self.etc / "subuid").write_text(f"other:1:2\ndockremap:{UID}:65536\n")
        (self.etc / "subgid").write_text(f"899:{GID}:65536\n")

    def command(self, sock=None):
        script = 'for f in passwd group subuid subgid; do [ ! -e /etc/$f ] || mount --bind "$0/$f" /etc/$f; done; exec "$@"'
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(self.etc), *super().command(sock)]


class Remapped(OwnEtc, Daemon):
    """It has no fault points."""


class RemappedFaulty(OwnEtc, FaultyDaemon):
    """It can be stopped at fault points."""


def started(kind, workdir, image_tar):
    if not all(os.path.exists(f) for f in ("/etc/subuid", "/etc/subgid")):
        pytest.skip("no /etc/subuid to put another in front of")
    eng = kind(pathlib.Path(tempfile.mkdtemp(prefix="rmp-", dir=workdir)))
    eng.remap()
    try:
        eng.start()
    except AssertionError:
        if "this kernel lacks idmapped layers" in eng.log_path.read_text():
            pytest.skip("this kernel has no detached idmapped layers (Linux 6.15)")
        raise
    eng.ok("load", "-i", str(image_tar))
    return eng


@pytest.fixture(scope="module")
def remapped(workdir, image_tar):
    eng = started(Remapped, workdir, image_tar)
    yield eng
    eng.remove_all()
    eng.ok("volume", "prune", "-af")
    eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.fixture
def eng(remapped):
    yield remapped
    remapped.remove_all()


def run(eng, *args):
    return eng.ok("run", "--rm", "--network", "none", *args)


def sh(eng, script, *args):
    return run(eng, *args, "busybox", "sh", "-c", script)


def box(eng, *args, name="box"):
    eng.ok("run", "-d", "--network", "none", "--name", name, *args, "busybox", "sleep", "1000")
    return eng.inspect(name)["State"]["Pid"]


def maps_of(pid):
    read = [pathlib.Path(f"/proc/{pid}/{name}_map").read_text().split() for name in ("uid", "gid")]
    return [" ".join(words) for words in read]


def test_the_daemon_says_so_and_has_a_root_of_its_own(eng):
    info = eng.json("GET", "/info")[1]
    assert "name=userns" in info["SecurityOptions"]
    assert info["DockerRootDir"] == f"{eng.data_root}/{UID}.{GID}"


def test_root_inside_is_nobody_outside(eng):
    pid = box(eng)
    assert maps_of(pid) == [MAP_UID, MAP_GID]
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(UID)] * 4 and status["Gid"].split() == [str(GID)] * 4
    assert status["CapEff"].strip() == "00000000a80425fb" and status["Seccomp"].strip() == "2"
    with open(f"/proc/{pid}/ns/user") as user:
        own = os.fstat(user.fileno()).st_ino
        assert own != os.stat("/proc/self/ns/user").st_ino
    for name in ("mnt", "pid", "net", "ipc", "uts"):
        with open(f"/proc/{pid}/ns/{name}") as namespace:
            owner = fcntl.ioctl(namespace, NS_GET_USERNS)
            assert os.fstat(owner).st_ino == own, name
            os.close(owner)
    assert eng.ok("top", "box").splitlines()[1].split()[0] == str(UID)


def test_files_have_the_owners_of_the_image_inside_and_on_disk(eng):
    out = sh(eng, "touch /x /tmp/y /dev/shm/z; stat -c '%u:%g' / /etc /etc/hosts /x /tmp/y /dev /dev/pts /dev/shm /dev/shm/z /sys/fs/cgroup /w",
             "-w", "/w/d", "--user", "0")
    assert set(out.split()) == {"0:0"}, out
    assert sh(eng, "stat -c '%u:%g' /img /img/etc/passwd", "--mount", "type=image,source=busybox,target=/img").split() == ["0:0"] * 2
    box(eng, "--user", "1000", "--tmpfs", "/t:uid=5,gid=6,mode=700")
    assert eng.ok("exec", "box", "stat", "-c", "%u:%g:%a", "/t") == "5:6:700"
    eng.ok("exec", "box", "sh", "-c", "echo hi > /tmp/of-1000; ls -ln /proc/self/fd/0 /dev/null")
    upper = pathlib.Path(eng.inspect("box")["GraphDriver"]["Data"]["UpperDir"])
    assert (upper / "tmp/of-1000").stat().st_uid == 1000, "an id on disk is the container's"
    assert upper.stat().st_uid == 0


def test_streams_and_terminals_belong_to_the_user(eng):
    assert sh(eng, "echo hi > /dev/stdout; id -u", "--user", "1000") == "hi\n1000"
    out = eng.ok("run", "--rm", "-t", "--network", "none", "--user", "7:8", "busybox", "sh", "-c", "tty; stat -c %u:%g $(tty); : > /dev/tty")
    assert out.split() == ["/dev/pts/0", "7:5"]


def test_what_belongs_to_the_host_is_out_of_reach(eng, tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    script = ("cat /h/secret; touch /h/new; mknod /tmp/n c 1 3; echo 1 > /proc/sys/kernel/panic; mkdir /sys/fs/cgroup/pids/x;"
              "mount -t tmpfs x /tmp && echo mounted; hostname changed && hostname; echo -1 > /proc/1/oom_score_adj; ls -ldn /h | cut -d' ' -f5- ")
    done = eng.cli("run", "--rm", "--network", "none", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined",
                   "-v", f"{tmp_path}:/h", "busybox", "sh", "-c", script)
    assert done.stdout.splitlines()[:2] == ["mounted", "changed"], done
    assert "65534" in done.stdout, "what belongs to nobody inside"
    refused = done.stderr.splitlines()
    assert len(refused) == 6, done.stderr
    assert os.listdir(tmp_path) == ["secret"]


def test_volumes_belong_to_the_containers_root(eng):
    eng.ok("volume", "create", "vol")
    place = pathlib.Path(eng.json("GET", "/volumes/vol")[1]["Mountpoint"])
    assert (place.stat().st_uid, place.stat().st_gid) == (UID, GID)
    assert sh(eng, "touch /v/a; stat -c %u /v /v/a", "-v", "vol:/v").split() == ["0", "0"]
    assert (place / "a").stat().st_uid == UID
    # The image's content comes with owners that are the same inside.
    run(eng, "-v", "filled:/etc", "busybox", "true")
    assert sh(eng, "stat -c %u /e /e/passwd", "-v", "filled:/e").split() == ["0", "0"]
    place = pathlib.Path(eng.json("GET", "/volumes/filled")[1]["Mountpoint"])
    assert (place / "passwd").stat().st_uid == UID


def test_execs(eng):
    pid = box(eng)
    assert eng.ok("exec", "box", "sh", "-c", "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user").split() == [
        "0", *MAP_UID.split(), os.readlink(f"/proc/{pid}/ns/user")]
    assert eng.ok("exec", "-t", "-u", "1000", "box", "sh", "-c", "tty; stat -c %u:%g $(tty)").split() == ["/dev/pts/0", "1000:5"]
    assert "1ff" in eng.ok("exec", "--privileged", "box", "grep", "CapEff", "/proc/self/status")
    done = eng.cli("exec", "-u", "70000", "box", "id")
    assert done.returncode == 128 and "cannot setuid to unmapped uid 70000 in user namespace" in done.stdout + done.stderr
    eid = create(eng, "box", "sleep", "1000")
    assert start(eng, eid)[0] == 200
    eng.kill9()
    eng.start()
    assert eng.ok("exec", "box", "id", "-u") == "0"
    eng.ok("kill", "box")
    assert ended(eng, eid) == 137
    assert eng.ok("wait", "box") == "137"
    eng.ok("start", "box")
    assert maps_of(eng.inspect("box")["State"]["Pid"])[0] == MAP_UID


def test_a_joined_container_brings_its_user_namespace(eng):
    pid = box(eng, "--ipc", "shareable", name="donor")
    own = os.readlink(f"/proc/{pid}/ns/user")
    for flag in ("--pid", "--ipc", "--network"):
        rest = () if flag == "--network" else ("--network", "none")
        out = eng.ok("run", "--rm", flag, "container:donor", *rest, "busybox", "sh", "-c", "readlink /proc/self/ns/user; id -u; touch /dev/shm/x /x")
        assert out.split() == [own, "0"], flag
    assert "sleep" in eng.ok("run", "--rm", "--pid", "container:donor", "--network", "none", "busybox", "cat", "/proc/1/cmdline")
    box(eng, "--userns", "host", "--ipc", "shareable", name="hosts")
    done = eng.cli("run", "--rm", "--network", "none", "--ipc", "container:hosts", "busybox", "true")
    assert done.returncode == 125 and "user namespaces enabled, but both namespace path and non-matching mapping" in done.stderr
    assert eng.ok("run", "--rm", "--network", "none", "--userns", "host", "--pid", "container:donor", "busybox", "stat", "-c", "%u", "/proc/1") == str(UID)


def test_the_hosts_user_namespace(eng):
    pid = box(eng, "--userns", "host", "--privileged", "--pid", "host", "--network", "host")
    assert os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    assert eng.ok("exec", "box", "stat", "-c", "%u", "/", "/etc/hosts").split() == ["0", "0"]
    assert eng.inspect("box")["HostConfig"]["UsernsMode"] == "host"


@pytest.mark.parametrize("host, text", [
    ({"Privileged": True}, "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
                           "when running privileged mode"),
    ({"NetworkMode": "host"}, "cannot share the host's network namespace when user namespaces are enabled"),
    ({"PidMode": "host"}, "cannot share the host PID namespace when user namespaces are enabled"),
])
def test_what_a_user_namespace_cannot_have(eng, host, text):
    body = {"Image": "busybox", "HostConfig": host}
    assert eng.json("POST", "/v1.48/containers/create", body) == (400, {"message": text})
    body["HostConfig"] |= {"UsernsMode": "host"}
    assert eng.json("POST", "/v1.48/containers/create", body)[0] == 201


def test_failed_starts_leave_nothing(eng):
    for args, code, text in [
        (("busybox", "nope"), 127, "executable file not found in $PATH"),
        (("--user", "70000", "busybox", "true"), 125, "unable to setup user: cannot setuid to unmapped uid 70000 in user namespace"),
        (("--group-add", "70000", "busybox", "true"), 125, "unable to setup user: setgroups: invalid argument"),
        (("--ipc", "host", "busybox", "true"), 125, "operation not permitted"),
        (("--sysctl", "net.nope=1", "busybox", "true"), 127, "net.nope"),  # the client's guess from "no such file"
    ]:
        done = eng.cli("run", "--rm", "--network", "none", *args)
        assert done.returncode == code and text in done.stderr, (args, done)
    assert sh(eng, "echo fine; sysctl -n net.ipv4.ip_forward kernel.shmmax", "--sysctl", "net.ipv4.ip_forward=1",
              "--sysctl", "kernel.shmmax=4096").split() == ["fine", "1", "4096"]


def test_a_keeper_that_dies_early_leaves_no_half_container(eng):
    """The first process waits for its maps; without their writer it must not wait for ever."""
    before = leaks.settled(eng)
    for _ in range(10):
        eng.ok("create", "--name", "early", "--network", "none", "busybox", "sleep", "1000")
        starting = eng.popen("start", "early", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eng.cli("rm", "-f", "early")
        starting.wait(60)
        eng.cli("rm", "-f", "early")
    wait_for(lambda: not eng.ok("ps", "-aq"), "no container is left")
    leaks.assert_no_growth(eng, before)


@pytest.fixture(scope="module")
def faulty(workdir, image_tar):
    eng = started(RemappedFaulty, workdir, image_tar)
    yield eng
    eng.disarm()
    eng.revive()
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.mark.parametrize("victim", test_faults.VICTIMS)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside"])
def test_kill_9_while_the_process_makes_the_first_one(faulty, victim, beside, monkeypatch):
    """The launches in which the process that the keeper clones is not the one that executes the program."""
    eng, args = faulty, ()
    # The host's root, which is nobody inside, can make no file there.
    def go(eng):
        # The container sees the file at once and ends, and with it the exec that made it.
        assert eng.cli("exec", "xx", "touch", "/go").returncode in (0, 137)

    monkeypatch.setattr(test_faults, "go", go)
    if beside:
        box(eng, name="donor")
        args = ("--pid", "container:donor")
    for point in test_faults.points_of(("keeper.launch.cloned", "child.begin", "child.exec", "keeper.exec.entered", "keeper.launch.noted"), victim):
        eng.made.add(eng.ok("create", "--name", "xx", "--network", "none", *args, "busybox", "sh", "-c", test_faults.PROGRAM))
        eng.arm(point, "stop")
        starting = test_faults.Doing(eng, "POST", "/containers/xx/start")
        test_faults.strike(eng, point, victim)
        status = starting.done()
        state = test_faults.true_state(eng, "xx")
        assert status != 204 or state["Running"], (point, state)
        if not state["Running"]:
            eng.ok("start", "xx")
        assert maps_of(eng.inspect("xx")["State"]["Pid"])[0] == MAP_UID
        test_faults.finish(eng, victim == test_faults.BOTH)
        test_faults.remove(eng)
    eng.remove_all()


def test_settings_that_name_nobody():
    for setting, text in [("nobody-of-that-name", "Error during uid lookup for \"nobody-of-that-name\": getent unable to find entry"),
                          ("a:b:c", "Invalid user/group specification in --userns-remap: \"a:b:c\"")]:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as root:
            words = [gantryd_binary(), "-H", f"unix://{root}/s", "--data-root", f"{root}/d", "--exec-root", f"{root}/e",
                     "--pidfile", f"{root}/p", "--userns-remap", setting]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert done.returncode != 0 and text in done.stderr, done
            assert os.listdir(root) == []


def test_copies_belong_to_who_they_belong_to_inside(remapped):
    remapped.ok("run", "-d", "--name", "cp", "-v", "/vol", "busybox", "sh", "-c", "echo x >/own; chown 5:6 /own; exec sleep 1000")
    wait_for(lambda: archive(remapped, "HEAD", "cp", "/own")[0] == 200, "it is ready")
    for state in ("running", "ended"):
        for at in ("", "/vol"):
            body = tar((f"{state}/file", b"data", {"uid": 7, "gid": 8}), ("fifo", None, {"type": FIFO, "uid": 9}))
            assert archive(remapped, "PUT", "cp", at or "/", body)[0] == 200
            got = members(archive(remapped, "GET", "cp", f"{at}/{state}")[2])
            assert {n: (m.uid, m.gid) for n, m in got.items()} == {state: (0, 0), f"{state}/file": (7, 8)}
            assert members(archive(remapped, "GET", "cp", f"{at}/fifo")[2])["fifo"].uid == 9
        own = members(archive(remapped, "GET", "cp", "/own")[2])["own"]
        assert (own.uid, own.gid) == (5, 6)
        status, _, data = archive(remapped, "PUT", "cp", "/", tar(("far", b"x", {"uid": 65_536})))
        assert status == 400 and "cannot be mapped to a host ID" in message(data)
        if state == "running":
            seen = remapped.ok("exec", "cp", "stat", "-c", "%u %g", "/running", "/running/file", "/vol/running/file")
            assert seen.splitlines() == ["0 0", "7 8", "7 8"]
            remapped.ok("kill", "cp")
            remapped.ok("wait", "cp")
    remapped.ok("rm", "-fv", "cp")
