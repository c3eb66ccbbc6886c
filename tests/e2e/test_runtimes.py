"""External OCI runtimes: tests of other modules over runc and crun, what is particular to runtimes, and runtimes that
misbehave."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import tempfile

import leaks
import pytest
from engine import Daemon, wait_for
from test_exec import (box, test_detach_keys,  # noqa: F401
                       test_environment, test_hang_up_does_not_end_it, test_input_round_trip, test_inspection,
                       test_terminal)
from test_hostconfig import (test_a_device_has_the_hosts_owner_and_mode, test_host_uts,  # noqa: F401
                             test_pid_of_another_container, test_private_namespaces, test_shareable_ipc_is_shared,
                             test_update_of_a_running_container)
from test_inside import test_capabilities, test_process, test_sysctls_of_own_namespaces, test_ulimits  # noqa: F401
from test_run import (test_both_streams_at_once_in_bulk, test_exit_code, test_hi,  # noqa: F401
                      test_killed_by_signal_is_128_plus, test_limits_reach_the_cgroup, test_sandbox,
                      test_stdin_eof_reaches_a_reader, test_user)
from test_survive import (LINES, proc_gone, test_kill9_at_full_rate_loses_and_doubles_nothing,  # noqa: F401
                          test_sigterm_leaves_containers_and_a_restart_adopts_them,
                          test_what_ends_while_the_daemon_is_down)
from test_userns import GID, UID, Remapped, started
from test_tty import Terminal, test_initial_size_is_set_at_start, test_resize, test_typing_and_exit_code  # noqa: F401

pytestmark = pytest.mark.gantry

def program(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module", params=["runc", "crun"])
def runtime(request):
    return request.param


def flags(name):
    return ["--add-runtime", f"{name}={program(name)}", "--default-runtime", name]


@contextlib.contextmanager
def daemon_with(workdir, image_tar, args):
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="rt-", dir=workdir)), args)
    eng.start()
    try:
        eng.ok("load", "-i", str(image_tar))
        yield eng
    finally:
        if not eng.alive():
            eng.start()
        eng.remove_all()
        eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.fixture(scope="module")
def runtime_engine(workdir, image_tar, runtime):
    with daemon_with(workdir, image_tar, flags(runtime)) as eng:
        for name in (runtime, "gantry") * 2:  # whatever the built-in one keeps ready is there, too
            eng.ok("run", "--rm", "--runtime", name, "busybox", "true")
        before = leaks.settled(eng)
        yield eng
        eng.remove_all()
        leaks.assert_no_growth(eng, before)


@pytest.fixture
def engine(runtime_engine):
    """In place of the shared engine: the tests above find this one."""
    yield runtime_engine
    runtime_engine.remove_all()


@pytest.fixture
def private_daemon(workdir, image_tar, runtime):
    with daemon_with(workdir, image_tar, flags(runtime)) as eng:
        yield eng


# --- what is particular to them -------------------------------------------------------------------

def test_it_is_the_runtime_that_runs(engine, runtime):
    info = engine.json("GET", "/info")[1]
    assert info["DefaultRuntime"] == runtime
    assert info["Runtimes"] == {"gantry": {"path": "gantry"}, runtime: {"path": program(runtime)}}
    cid = engine.ok("run", "-d", "busybox", "sleep", "1000")
    assert engine.inspect(cid)["HostConfig"]["Runtime"] == runtime
    listed = subprocess.run([program(runtime), "--root", f"{engine.exec_root}/oci-state/{runtime}", "list", "-q"],
                            capture_output=True, text=True, check=True)
    assert cid in listed.stdout
    assert os.path.exists(f"{engine.exec_root}/oci/{cid}/config.json")
    built_in = engine.ok("run", "-d", "--runtime", "gantry", "busybox", "sleep", "1000")
    assert engine.inspect(built_in)["HostConfig"]["Runtime"] == "gantry"
    assert not os.path.exists(f"{engine.exec_root}/oci/{built_in}")


FAILURES = {
    "runc": [("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
             ("/nosuch", 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
             ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied')],
    "crun": [("nosuch", 127, "executable file `nosuch` not found"), ("/nosuch", 127, "executable file `/nosuch` not found"),
             ("/etc/passwd", 126, "ermission denied")],
}


def test_programs_that_are_not_there(engine, runtime, box):  # noqa: F811
    """The runtime's own words, behind dockerd's; the exit codes go by them as in dockerd."""
    for argv, code, words in FAILURES[runtime]:
        status, doc = engine.json("POST", "/v1.48/containers/create", {"Image": "busybox", "Cmd": [argv]})
        assert status == 201, doc
        status, error = engine.json("POST", f"/v1.48/containers/{doc['Id']}/start")
        start = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        assert status == 400 and error["message"].startswith(start) and words in error["message"], error
        state = engine.inspect(doc["Id"])["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("created", code, error["message"])
        done = engine.cli("exec", "box", argv)
        assert done.returncode == code and done.stdout.startswith("OCI runtime exec failed: "), done
        assert words in done.stdout


def test_the_hosts_mounts_stay(engine):
    with open("/proc/self/mountinfo") as f:
        before = {line.split()[4] for line in f}
    engine.ok("run", "-d", "-v", "/:/host:ro", "-v", "/tmp:/t:rw", "busybox", "sleep", "1000")
    with open("/proc/self/mountinfo") as f:
        assert not [line for line in f if str(engine.exec_root) in line and line.split()[4] not in before]


def test_pause_and_signals(engine):
    engine.ok("run", "-d", "--name", "pp", "busybox", "sh", "-c",
              "trap 'echo usr' USR1; trap 'exit 3' TERM; while :; do sleep 0.05; done")
    engine.ok("pause", "pp")
    assert engine.inspect("pp")["State"]["Status"] == "paused"
    engine.ok("unpause", "pp")
    engine.ok("kill", "-s", "USR1", "pp")
    wait_for(lambda: engine.ok("logs", "pp") == "usr", "the signal is seen")
    assert "sleep 0.05" in engine.ok("top", "pp")
    engine.ok("stop", "pp")
    assert engine.inspect("pp")["State"]["ExitCode"] == 3
    engine.ok("start", "pp")
    engine.ok("pause", "pp")
    engine.ok("kill", "pp")
    assert engine.ok("wait", "pp") == "137"
    engine.ok("start", "pp")
    engine.ok("rm", "-f", "pp")


def test_a_terminal_and_an_exec_outlive_the_daemon(private_daemon):
    eng = private_daemon
    eng.ok("run", "-dit", "--name", "tt", "busybox", "sh")
    eng.ok("exec", "-d", "tt", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; touch /done; exec sleep 600")
    eng.kill9()
    eng.start()
    eng.ok("exec", "tt", "touch", "/go")
    wait_for(lambda: eng.cli("exec", "tt", "test", "-e", "/done").returncode == 0, "the exec goes on")
    term = Terminal(eng, "attach", "tt")
    term.send("stty size; exit 9\n")
    term.expect(r"\d+ \d+")
    assert term.wait() == 9
    assert eng.ok("wait", "tt") == "9"


def test_a_keeper_that_dies(private_daemon):
    """The container goes on, and its successor drives the runtime."""
    eng = private_daemon
    cid = eng.ok("run", "-d", "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    pid = eng.inspect(cid)["State"]["Pid"]
    with open(f"/proc/{pid}/stat") as f:
        keeper = int(f.read().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: proc_gone(keeper), "the keeper is gone")
    assert eng.ok("exec", cid, "echo", "on") == "on"
    eng.ok("stop", cid)
    state = eng.inspect(cid)["State"]
    # Nobody but the keeper may have seen the code; then it is said to be unknown.
    assert not state["Running"] and (state["ExitCode"], state["Error"] == "") in [(5, True), (255, False)], state
    wait_for(lambda: not os.listdir(eng.exec_root / "oci"), "the bundle is removed")


# --- which runtime -------------------------------------------------------------------------------

def test_names_of_the_built_in_one(session_engine):
    for name in ("gantry", "runc", "io.containerd.runc.v2"):
        cid = session_engine.ok("run", "-d", "--runtime", name, "busybox", "true")
        assert session_engine.inspect(cid)["HostConfig"]["Runtime"] == name
        session_engine.ok("rm", "-f", cid)
    status, doc = session_engine.json("POST", "/v1.48/containers/create",
                                      {"Image": "busybox", "HostConfig": {"Runtime": "crun"}})
    assert (status, doc["message"]) == (400, "unknown or invalid runtime name: crun")


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_reload(workdir, image_tar):
    """Runtimes come and go with SIGHUP; a container keeps the one it runs under."""
    name = "runc" if shutil.which("runc", path="/usr/sbin:/usr/bin") else "crun"
    real = program(name)
    path = pathlib.Path(tempfile.mkdtemp(prefix="rl-", dir=workdir)) / "daemon.json"
    path.write_text("{}")
    with daemon_with(workdir, image_tar, ["--config-file", str(path)]) as eng:
        def reload(doc, says="the configuration is reloaded"):
            at = len(eng.log_path.read_text())
            path.write_text(json.dumps(doc))
            eng.process.send_signal(signal.SIGHUP)
            wait_for(lambda: says in eng.log_path.read_text()[at:], says)
        assert "unknown or invalid runtime name: mine" in eng.cli("run", "-d", "--runtime", "mine", "busybox").stderr
        mine = {"path": real, "runtimeArgs": ["--debug"]}
        reload({"runtimes": {"mine": mine}, "default-runtime": "mine"})
        info = eng.json("GET", "/info")[1]
        assert (info["DefaultRuntime"], info["Runtimes"]["mine"]) == ("mine", mine)
        cid = eng.ok("run", "-d", "busybox", "sleep", "1000")
        assert eng.inspect(cid)["HostConfig"]["Runtime"] == "mine"
        for wrong, why in [({"runtimes": {"x": {}}}, "either a runtimeType or a path"),
                           ({"runtimes": {"x": {"runtimeType": "io.containerd.kata.v2"}}}, "is not supported"),
                           ({"default-runtime": "nosuch"}, "does not exist")]:
            reload(wrong, why)
            assert eng.json("GET", "/info")[1]["DefaultRuntime"] == "mine"
        reload({})
        assert eng.json("GET", "/info")[1]["Runtimes"] == {"gantry": {"path": "gantry"}}
        assert eng.ok("exec", cid, "echo", "still") == "still"
        eng.ok("stop", "-t", "0", cid)
        status, doc = eng.json("POST", f"/v1.48/containers/{cid}/start")
        assert (status, doc["message"]) == (400, "unknown or invalid runtime name: mine")


def test_a_keeper_of_before_them(workdir, image_tar):
    """An earlier keeper that still has containers cannot run them, and says so."""
    path = script(pathlib.Path(tempfile.mkdtemp(prefix="old-", dir=workdir)) / "r", "exit 1")
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="rt-", dir=workdir)), ["--add-runtime", f"r={path}"])
    eng.extra_env = {"GANTRY_KEEPER_VERSION": "5"}
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    done = eng.cli("run", "--runtime", "r", "busybox", "true")
    assert done.returncode == 125
    assert "the keeper speaks protocol version 5, which cannot run external runtimes" in done.stderr
    assert not os.listdir(eng.exec_root / "oci")
    assert eng.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


def test_bad_flags(workdir):
    for args, text in [
        (["--add-runtime", "foo"], 'invalid argument "foo" for "--add-runtime" flag: invalid runtime argument: foo'),
        (["--default-runtime", "foo"], "specified default runtime 'foo' does not exist"),
        (["--add-runtime", "gantry=/x"], "runtime name 'gantry' is reserved"),
    ]:
        eng = Daemon(workdir / "never", args)
        done = subprocess.run([*eng.command(), "--validate"], capture_output=True, text=True)
        assert done.returncode != 0 and text in done.stderr, done


# --- runtimes that misbehave ---------------------------------------------------------------------

SAYS = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
LIARS = {
    "gone": (None, "fork/exec {path}: no such file or directory", 127),
    # dockerd's rule goes by words, and "no such file" is among what it says of the log.
    "fails": ("exit 3", "{path} did not terminate successfully: exit status 3", 127),
    "talks": ("""while [ $# -gt 0 ]; do [ "$1" = --log ] && log=$2; shift; done
               echo '{"level":"error","msg":"I will not: permission denied"}' > $log; exit 1""",
              "I will not: permission denied", 126),
    "idle": ("exit 0", "take over the process that the runtime made: no such file or directory", 127),
    "liar": ("""while [ $# -gt 0 ]; do [ "$1" = --pid-file ] && file=$2; shift; done; echo $PPID > $file""",
             "take over the process that the runtime made: ", None),
    "mumbles": ("""while [ $# -gt 0 ]; do [ "$1" = --pid-file ] && file=$2; shift; done; echo 12 3 > $file""",
                "take over the process that the runtime made: bad message", None),
}


def test_runtimes_that_fail_or_lie(workdir, image_tar):
    here = pathlib.Path(tempfile.mkdtemp(prefix="bad-", dir=workdir))
    args = []
    for name, (text, _, _) in LIARS.items():
        path = str(here / name) if text is None else script(here / name, text)
        args += ["--add-runtime", f"{name}={path}"]
    with daemon_with(workdir, image_tar, args) as eng:
        keepers = {pid for pid, comm in leaks.engine_processes(eng).items() if "keeper" in comm}
        for name, (_, words, code) in LIARS.items():
            cid = eng.ok("create", "--runtime", name, "-t", "busybox", "true")
            status, doc = eng.json("POST", f"/v1.48/containers/{cid}/start")
            assert status == (400 if code else 500), doc
            assert doc["message"].startswith(SAYS) and words.format(path=here / name) in doc["message"], doc
            state = eng.inspect(cid)["State"]
            assert (state["Status"], state["ExitCode"]) == ("created", code or 128), (name, state)
            assert not os.listdir(eng.exec_root / "oci"), name
        # Whatever number the liar wrote, nothing was done to that process.
        assert keepers == {pid for pid, comm in leaks.engine_processes(eng).items() if "keeper" in comm}
        assert eng.ok("run", "--rm", "busybox", "echo", "fine") == "fine"


def test_a_runtime_that_hangs_hangs_alone(workdir, image_tar):
    """Neither other containers nor the next daemon wait for it."""
    here = pathlib.Path(tempfile.mkdtemp(prefix="hang-", dir=workdir))
    path = script(here / "hang", f"echo $$ > {here}/pid; exec sleep 1000")
    with daemon_with(workdir, image_tar, ["--add-runtime", f"hang={path}"]) as eng:
        hung = eng.popen("run", "--name", "hung", "--runtime", "hang", "busybox", "true", stderr=subprocess.DEVNULL)
        wait_for(lambda: (here / "pid").exists() and (here / "pid").read_text().strip(), "the runtime runs")
        pid = int((here / "pid").read_text())
        for _ in range(4):
            assert eng.cli("run", "--rm", "busybox", "sh", "-c", "exit 3").returncode == 3
        live = eng.ok("run", "-d", "busybox", "sleep", "1000")
        eng.kill9()
        hung.wait()
        assert not proc_gone(pid)
        eng.start()
        wait_for(lambda: proc_gone(pid), "the runtime is ended")
        assert eng.inspect("hung")["State"]["Status"] == "created"
        assert eng.inspect(live)["State"]["Running"]
        assert not os.listdir(eng.exec_root / "oci")


def test_in_a_user_namespace(workdir, image_tar, runtime):
    """With `--userns-remap`: files, terminal, exec and a joined container are the remapped root's."""
    for path in [workdir, *workdir.parents]:
        path.chmod(path.stat().st_mode | 0o111)  # the container's root is nobody outside

    def kind(root):
        root.chmod(0o711)
        return Remapped(root, ["--add-runtime", f"{runtime}={program(runtime)}", "--default-runtime", runtime])
    eng = started(kind, workdir, image_tar)
    try:
        out = eng.ok("run", "--rm", "--network", "none", "-v", "vol:/v", "--tmpfs", "/t", "busybox", "sh", "-c",
                     "cat /proc/self/uid_map /proc/self/gid_map; touch /x /v/y /t/z && stat -c %u:%g /x /v/y /t/z /etc/hosts")
        maps = [line.split() for line in out.splitlines()[:2]]
        assert maps == [["0", str(UID), "65536"], ["0", str(GID), "65536"]]
        assert out.splitlines()[2:] == ["0:0"] * 4
        assert eng.ok("run", "--rm", "-t", "--network", "none", "-u", "1000", "busybox", "sh", "-c",
                      "stat -c %u $(tty)").strip() == "1000"
        eng.ok("run", "-d", "--name", "donor", "--network", "none", "busybox", "sleep", "1000")
        assert os.stat(f"/proc/{eng.inspect('donor')['State']['Pid']}").st_uid == UID
        assert eng.ok("exec", "donor", "cat", "/proc/self/uid_map").split() == maps[0]
        eng.ok("exec", "-d", "donor", "true")
        null = os.stat("/dev/null")
        assert (null.st_uid, null.st_gid) == (0, 0), "the host's /dev/null was given away"
        joined = eng.ok("run", "--rm", "--network", "container:donor", "--pid", "container:donor", "busybox", "ps")
        assert "sleep 1000" in joined
        assert eng.ok("run", "--rm", "--userns", "host", "--network", "none", "busybox", "cat",
                      "/proc/self/uid_map").split()[:2] == ["0", "0"]
        status, doc = eng.json("POST", "/containers/create", {"Image": "busybox", "User": "100000", "Cmd": ["true"],
                                                              "HostConfig": {"NetworkMode": "none"}})
        assert status == 201
        status, error = eng.json("POST", f"/containers/{doc['Id']}/start")
        assert status == 500 and "cannot setuid to unmapped uid 100000 in user namespace" in error["message"]
    finally:
        eng.remove_all()
        eng.ok("volume", "prune", "-af")
        eng.stop()
    leaks.assert_nothing_left(eng)
