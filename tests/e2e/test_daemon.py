"""The daemon as a process: flags, daemon.json, sockets, signals, damaged files, being killed."""
import grp
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import pytest
from conftest import FULL
from engine import Daemon, gantryd_binary, wait_for

pytestmark = pytest.mark.gantry
KILLS = 100 if FULL else 15


def gantryd(*args, timeout=20, **kw):
    """Run gantryd to its end: exit code, stdout, stderr."""
    done = subprocess.run([gantryd_binary(), *args], capture_output=True, text=True, timeout=timeout, **kw)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def root(workdir):
    path = pathlib.Path(tempfile.mkdtemp(prefix="dm-", dir=workdir))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def daemons(root):
    """Starts daemons that are ended with the test."""
    made = []

    def make(name="a", *args, **env):
        eng = Daemon(root / name, args)
        made.append(eng)
        saved = {k: os.environ.get(k) for k in env}
        os.environ.update(env)
        try:
            eng.start()
        finally:
            for key, value in saved.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        return eng
    yield make
    for eng in made:
        eng.stop()


FLAGS = [
    (["--nosuch"], "unknown flag: --nosuch"), (["-x"], "unknown shorthand flag: 'x' in -x"),
    (["-H"], "flag needs an argument: 'H' in -H"), (["--host"], "flag needs an argument: --host"),
    (["--debug=maybe"], 'invalid argument "maybe" for "-D, --debug" flag: strconv.ParseBool: parsing "maybe": invalid syntax'),
    (["-H", "http://x"],
     'invalid argument "http://x" for "-H, --host" flag: invalid bind address (http://x): unsupported proto \'http\''),
    (["--label", "x"], 'invalid argument "x" for "--label" flag: bad attribute format: x'),
    (["--shutdown-timeout=x"], 'invalid argument "x" for "--shutdown-timeout" flag: strconv.ParseInt: parsing "x": invalid syntax'),
    (["--validate", "--log-level=loud"], "invalid logging level: loud"),
    (["--validate", "--log-format=x"], "invalid log format: x"), (["serve"], '"gantryd" accepts no arguments: serve'),
    (["--validate", "--config-file=/nosuch.json"],
     "unable to configure the Docker daemon with file /nosuch.json: open /nosuch.json: no such file or directory"),
    (["--bip", "10.0.0.1/8"], "--bip is a flag of dockerd that this version of gantryd does not support"),
    (["--live-restore=false"], "--live-restore is a flag of dockerd that this version of gantryd does not support"),
]


@pytest.mark.parametrize("args,want", FLAGS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_flags_that_are_refused(args, want):
    code, out, err = gantryd(*args)
    assert (code, out) == (1, "") and want in err.splitlines()[0], err


def test_flags_that_answer():
    code, out, _ = gantryd("-v")
    assert code == 0 and re.fullmatch(r"Gantry version \S+, build \S+\n", out)
    code, out, _ = gantryd("--help")
    assert code == 0 and "--data-root" in out
    for args in (["--validate"], ["--validate", "-D=false", "--debug=0", "--version=F"],
                 ["--validate", "--live-restore", "--iptables=false", "-s", "overlay2", "--shutdown-timeout", "5"]):
        assert gantryd(*args)[:2] == (0, "configuration OK\n"), args


FILES = [
    ("{", "invalid JSON: "), ('{"nosuch":1}', "the following directives don't match any configuration option: nosuch"),
    ('{"debug":"yes"}', "invalid JSON: json: cannot unmarshal string into Go struct field Config.debug of type bool"),
    ('{"hosts":["unix:///a"]}', "the following directives are specified both as a flag and in the configuration file: "
                                "hosts: (from flag: [unix:///b], from file: [unix:///a])"),
    ('{"labels":["x"]}', "merged configuration validation from file and command line flags failed: bad attribute format: x"),
    ('{"bip":"10.0.0.1/8"}', "the following directives of dockerd are not supported by this version of gantryd: bip"),
]


@pytest.mark.parametrize("text,want", FILES, ids=lambda v: v[:20])
def test_files_that_are_refused(root, text, want):
    path = root / "daemon.json"
    path.write_text(text)
    code, _, err = gantryd("--validate", "--config-file", str(path), "-H", "unix:///b")
    assert code == 1 and err.startswith(f"unable to configure the Docker daemon with file {path}: {want}"), err


def test_settings_of_a_file(root, daemons):
    path = root / "daemon.json"
    path.write_text('\ufeff{"labels":["a=b"],"debug":true,"shards":1,"live-restore":true}')
    eng = daemons("a", "--config-file", str(path))
    info = eng.json("GET", "/info")[1]
    assert info["Labels"] == ["a=b"] and info["Debug"] is True and len(eng.debug()["shards"]) == 1


def test_reload(root, daemons):
    path = root / "daemon.json"
    path.write_text('{"labels":["a=b"]}')
    eng = daemons("a", "--config-file", str(path))
    events = eng.popen("events", "--format", "{{.Type}} {{.Action}}", stdout=subprocess.PIPE, text=True)
    wait_for(lambda: eng.json("GET", "/info")[1]["NEventsListener"] == 1, "the events are listened to")

    def settings():
        info = eng.json("GET", "/info")[1]
        return info["Labels"], info["Debug"]

    def reload(text, says):
        at = len(eng.log_path.read_text())
        path.write_text(text)
        eng.process.send_signal(signal.SIGHUP)
        wait_for(lambda: says in eng.log_path.read_text()[at:], says, 10)
    assert settings() == (["a=b"], False)
    reload('{"labels":["c=d","e=f"],"debug":true}', "the configuration is reloaded")
    assert settings() == (["c=d", "e=f"], True)
    assert events.stdout.readline() == "daemon reload\n"
    for broken in ("{", '{"nosuch":1}', '{"labels":["x"]}'):
        reload(broken, "nothing was changed")
        assert settings() == (["c=d", "e=f"], True)
    reload("{}", "the configuration is reloaded")
    assert settings() == ([], False)
    events.kill()
    events.wait()
    events.stdout.close()


def test_several_hosts_and_the_socket(root, daemons):
    other = root / "deep/er/other.sock"
    eng = daemons("a", "-H", f"unix://{other}")
    for path in (eng.socket_path, str(other)):
        info = os.stat(path)
        assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) == 0o660 and info.st_uid == 0
    first, eng.host = eng.host, f"unix://{other}"
    assert eng.http("GET", "/_ping")[2] == b"OK"
    eng.host = first
    assert pathlib.Path(eng.workdir / "gantryd.pid").read_text() == str(eng.pid)
    eng.stop()
    assert not other.exists() and not os.path.exists(eng.socket_path) and not (eng.workdir / "gantryd.pid").exists()


def test_the_group_of_the_socket(root, daemons):
    group = next(g for g in grp.getgrall() if g.gr_gid != 0)
    eng = daemons("a", "-G", group.gr_name)
    assert os.stat(eng.socket_path).st_gid == group.gr_gid
    code, _, err = gantryd(*Daemon(root / "b").command()[1:], "--group", "nosuchgroup")
    assert code == 1 and "group nosuchgroup not found" in err


def test_socket_activation(root):
    sock = socket.socket(socket.AF_UNIX)
    path = root / "act.sock"
    sock.bind(str(path))
    sock.listen()
    eng = Daemon(root / "a")
    command = [a if not a.startswith("unix://") else "fd://" for a in eng.command()]

    with open(eng.log_path, "wb") as log:
        # The variables are for the process that is started: a shell names it and becomes it.
        eng.process = subprocess.Popen(["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", *command],
                                       preexec_fn=lambda: os.dup2(sock.fileno(), 3), pass_fds=[3], stdout=log, stderr=log)
    eng.pid, eng.host = eng.process.pid, f"unix://{path}"
    try:
        eng.wait_up()
        assert eng.http("GET", "/_ping")[2] == b"OK"
    finally:
        eng.stop()
    assert path.exists(), "the socket is systemd's"
    code, _, err = gantryd(*command[1:])
    assert code == 1 and "no sockets found via socket activation" in err


def test_readiness_is_notified(root, daemons):
    path = str(root / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        eng = daemons("a", NOTIFY_SOCKET=path)
        assert sock.recv(100) == b"READY=1"
        eng.stop()
        assert sock.recv(100) == b"STOPPING=1"


def test_one_daemon_per_root_socket_and_pidfile(root, daemons):
    eng = daemons("a")
    code, _, err = gantryd(*eng.command(f"unix://{root}/x.sock")[1:])
    assert code == 1 and f"the data root {eng.data_root} is in use by another gantryd" in err
    args = ["--data-root", str(root / "d2"), "--exec-root", str(root / "e2"), "-H", eng.host]
    code, _, err = gantryd(*args, "-p", str(root / "p2"))
    assert code == 1 and "address already in use" in err
    args[-1] = f"unix://{root}/y.sock"
    code, _, err = gantryd(*args, "-p", str(eng.workdir / "gantryd.pid"))
    assert code == 1 and f"process with PID {eng.pid} is still running" in err
    assert eng.http("GET", "/_ping")[2] == b"OK"


def test_leftovers_of_a_killed_daemon(root, daemons):
    eng = daemons("a")
    eng.kill9()
    assert os.path.exists(eng.socket_path) and (eng.workdir / "gantryd.pid").exists()
    eng.start()
    (root / "b").mkdir()
    (root / "b/d.sock").write_text("a file")
    code, _, err = gantryd(*Daemon(root / "b").command()[1:])
    assert code == 1 and "no socket" in err
    assert (root / "b/d.sock").read_text() == "a file"
    code, _, err = gantryd(*Daemon(root / "c").command()[1:], "-H", f"unix://{root}/b/d.sock")
    assert code == 1 and "no socket" in err and set(os.listdir(root / "c")) == {"data", "exec", "docker-config"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_order(root, daemons, image_tar, number):
    eng = daemons("a")
    eng.ok("load", "-i", str(image_tar))
    eng.ok("run", "-d", "--name", "stays", "--network", "none", "busybox", "sleep", "1000")
    # PID 1 ignores SIGTERM, so this request lasts until the kill after its grace.
    answer = {}
    asking = threading.Thread(target=lambda: answer.update(r=eng.http("POST", "/containers/stays/stop?t=2")))
    eng.ok("run", "-d", "--name", "goes-on", "--network", "none", "busybox", "sleep", "1000")
    asking.start()
    wait_for(lambda: sum(s["requests_in_flight"] for s in eng.debug()["shards"]) >= 2, "the stop is in flight")
    eng.process.send_signal(number)
    assert eng.process.wait(20) == 0
    asking.join()
    assert answer["r"][0] == 204, answer
    eng.start()
    assert eng.inspect("goes-on")["State"]["Running"] and not eng.inspect("stays")["State"]["Running"]
    eng.remove_all()


def test_the_boot_is_logged_step_by_step(root, daemons):
    eng = daemons("a")
    log = eng.log_path.read_text()
    for step in ("probe the kernel", "open the metadata store", "start the shards", "listen", "serve"):
        assert re.search(rf'boot step="{step}" took_us=\d+', log), step
    assert log.index("probe the kernel") < log.index("make the roots")


def test_identity_is_kept_over_restarts(root, daemons):
    eng = daemons("a")
    info, networks = eng.json("GET", "/info")[1], eng.json("GET", "/networks")[1]
    eng.stop()
    eng.start()
    assert eng.json("GET", "/info")[1]["ID"] == info["ID"]
    assert eng.json("GET", "/networks")[1] == networks


def test_a_damaged_store_is_named(root, image_tar):
    eng = Daemon(root / "a")
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    eng.ok("create", "--network", "none", "busybox", "true")
    eng.stop()
    path = eng.data_root / "metadata.redb"
    good = path.read_bytes()
    torn = bytearray(good)
    for at in range(0, len(torn), 4096):
        torn[at + 100:at + 200] = os.urandom(100)
    for damage in (b"not a database" * 1000, bytes(torn), good[:1000]):
        path.write_bytes(damage)
        code, _, err = gantryd(*eng.command()[1:], timeout=30)
        assert code == 1 and "metadata store" in err and "panicked" not in err, err
    path.write_bytes(good)
    eng.start()
    assert len(eng.json("GET", "/containers/json?all=1")[1]) == 1
    eng.remove_all()
    eng.stop()


def test_damaged_files_are_named(root):
    eng = Daemon(root / "a")
    eng.start()
    eng.stop()
    (eng.data_root / "identity.json").write_text("{")
    code, _, err = gantryd(*eng.command()[1:])
    assert code == 1 and "identity.json is damaged" in err and "panicked" not in err


def test_roots_that_cannot_be_written(root):
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,ro", "t", str(disk)], check=True)
    try:
        base = ["-H", f"unix://{root}/r.sock", "-p", str(root / "r.pid")]
        for roots in ((disk / "data", root / "exec"), (root / "data", disk / "exec")):
            code, _, err = gantryd(*base, "--data-root", str(roots[0]), "--exec-root", str(roots[1]))
            assert code == 1 and "Read-only file system" in err and "panicked" not in err, err
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        code, _, err = gantryd(*base, "--data-root", str(disk / "data"), "--exec-root", str(root / "exec"))
        assert code == 1 and "No space left on device" in err and "panicked" not in err, err
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert not (root / "r.pid").exists() and not (root / "r.sock").exists()


def test_a_full_disk_is_survived(root, daemons, image_tar):
    """Requests fail while it is full, and only then."""
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "t", str(disk)], check=True)
    try:
        os.symlink(disk, root / "a")
        eng = daemons("a")
        eng.ok("load", "-i", str(image_tar))
        tag = 0

        def tagged():
            nonlocal tag
            tag += 1
            return eng.http("POST", f"/images/busybox/tag?repo=full&tag=t{tag}")[0]
        assert tagged() == 201
        with open(disk / "fill", "wb", 0) as fill:
            try:
                while fill.write(b"x" * 65536) > 0:
                    pass
            except OSError:
                pass
        # The log of the store has its place already: the first go well.
        answers = set()
        while 500 not in answers and tag < 2000:
            answers.add(tagged())
        assert 500 in answers and eng.alive()
        os.unlink(disk / "fill")
        assert tagged() == 201
        assert eng.ok("run", "--rm", "--network", "none", "full:t1", "echo", "back") == "back"
        images = eng.ok("images", "-q", "--no-trunc", "full").count("\n")
        eng.kill9()
        eng.start()
        assert eng.ok("images", "-q", "--no-trunc", "full").count("\n") >= images
        eng.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_killed_again_and_again(root, daemons, image_tar):
    """What was announced before a kill is there after it; every boot works."""
    eng = daemons("a")
    eng.ok("load", "-i", str(image_tar))
    known = []
    for turn in range(KILLS):
        status, document = eng.json("POST", f"/containers/create?name=k{turn}", {
            "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}})
        assert status == 201
        known.append(document["Id"])
        if turn % 5 == 0:
            assert eng.http("POST", f"/containers/k{turn}/start")[0] == 204
        asking = threading.Thread(target=lambda t=turn: suppressed(eng, t))
        asking.start()
        time.sleep(0.003 * (turn % 7))
        eng.kill9()
        asking.join()
        eng.start()
        listed = {c["Id"]: c["State"] for c in eng.json("GET", "/containers/json?all=1")[1]}
        assert set(known) <= set(listed)
        assert listed[known[turn - turn % 5]] == "running"
    assert "panicked" not in eng.log_path.read_text(errors="replace")
    eng.remove_all()


def suppressed(eng, turn):
    """A create that a kill may cut."""
    try:
        eng.json("POST", f"/containers/create?name=cut{turn}", {"Image": "busybox", "Cmd": ["true"]})
    except (OSError, ValueError, IndexError):
        pass


def test_info_is_true(engine):
    info, version = engine.json("GET", "/info")[1], engine.json("GET", "/version")[1]
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) * 1024
    assert info["MemTotal"] == memory and info["NCPU"] == len(os.sched_getaffinity(0))
    assert info["KernelVersion"] == version["KernelVersion"] == os.uname().release
    assert info["Name"] == os.uname().nodename and info["Architecture"] == os.uname().machine
    assert info["DockerRootDir"] == str(engine.data_root)
    engine.ok("create", "--name", "made", "--network", "none", "busybox", "true")
    engine.ok("run", "-d", "--name", "runs", "--network", "none", "busybox", "sleep", "1000")
    info = engine.json("GET", "/info")[1]
    assert [info[k] for k in ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped")] == [2, 1, 0, 1]
    assert info["Images"] == len(engine.json("GET", "/images/json?all=1")[1])
    assert json.loads(engine.ok("info", "--format", "{{json .}}"))["ID"] == info["ID"]
    assert engine.ok("version", "--format", "{{.Server.APIVersion}}") == "1.48"


def test_debug_counters(engine):
    """The counters that docs/ARCHITECTURE.md lists."""
    doc = engine.debug()
    assert set(doc) >= {"shards", "open_fds"} and doc["open_fds"] > 0
    for number, shard in enumerate(doc["shards"]):
        assert shard["shard"] == number
        assert {"tasks_alive", "mailbox_len", "jobs_run", "connections", "requests", "requests_in_flight", "panics",
                "stalls", "last_stall"} <= set(shard)
        assert shard["panics"] == 0
    before = sum(s["requests"] for s in doc["shards"])
    engine.http("GET", "/_ping")
    after = engine.debug()
    assert sum(s["requests"] for s in after["shards"]) == before + 2
    assert sum(s["requests_in_flight"] for s in after["shards"]) == 1
