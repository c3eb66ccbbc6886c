"""Keepers that die or are of an earlier version: what runs goes on, what is new goes to a new one."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import leaks
import pytest
from engine import REPO, gantryd_binary, wait_for
from faults import FaultyDaemon, process_state

pytestmark = pytest.mark.gantry
OLD_VERSION = 3
# The last keeper that speaks it.
OLD_COMMIT = "720578c8a9c627c4526ff2d1c72703a34a4066ac"
COUNTER = "i=0; while [ ! -e /go ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 9"


@pytest.fixture
def eng(workdir, image_tar):
    eng = FaultyDaemon(pathlib.Path(tempfile.mkdtemp(prefix="kpr-", dir=workdir)))
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    yield eng
    eng.extra_env.pop("GANTRY_KEEPER_VERSION", None)
    eng.disarm()
    eng.revive()
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


def run(eng, name, script, *flags):
    # Made, not run: the end of the first client's input is then the container's.
    eng.ok("create", "--name", name, "--network", "none", *flags, "busybox", "sh", "-c", script)
    eng.ok("start", name)
    return eng.inspect(name)["State"]["Pid"]


def touch(pid, path="go"):
    pathlib.Path(f"/proc/{pid}/root/{path}").touch()


def test_a_dead_keeper_costs_its_containers_nothing(eng):
    """Logs and attached clients go on, signals, stop, resize, exec, input and new starts work, exit codes are true."""
    counter = run(eng, "counter", COUNTER)
    run(eng, "reader", "while read x; do echo got $x; done; exit 4", "-i")
    run(eng, "term", "trap 'echo term; exit 6' TERM; while :; do sleep 0.05; done")
    run(eng, "tty", "stty size; read x; stty size; exit 8", "-t", "-i")
    run(eng, "quick", "sleep 0.2; exit 5")
    long = eng.popen("exec", "term", "sh", "-c", "echo begin; while [ ! -e /end ]; do sleep 0.05; done; echo end; exit 11",
                     stdout=subprocess.PIPE)
    assert long.stdout.readline() == b"begin\n"
    attach = eng.popen("attach", "reader", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    attach.stdin.write(b"one\n")
    attach.stdin.flush()
    assert attach.stdout.readline() == b"got one\n"
    for _ in range(2):
        dead = eng.kill_keeper()
        attach.stdin.write(b"two\n")
        attach.stdin.flush()
        assert attach.stdout.readline() == b"got two\n"
        assert eng.ok("run", "--rm", "--network", "none", "busybox", "echo", "new") == "new"
        assert eng.keeper() != dead
        assert eng.cli("exec", "counter", "sh", "-c", "exit 3").returncode == 3
    assert eng.ok("wait", "quick") == "5"
    assert eng.json("POST", "/containers/tty/resize?h=33&w=77")[0] == 200
    with eng.connect() as sock:
        sock.sendall(b"POST /containers/tty/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
                     b"Upgrade: tcp\r\n\r\n")
        assert b"101" in sock.recv(4096)
        sock.sendall(b"x\n")
        assert eng.ok("wait", "tty") == "8"
    assert "33 77" in eng.ok("logs", "tty")
    touch(eng.inspect("term")["State"]["Pid"], "end")
    assert long.stdout.read() == b"end\n" and long.wait(60) == 11
    eng.ok("stop", "-t", "30", "term")
    assert eng.inspect("term")["State"]["ExitCode"] == 6 and eng.ok("logs", "term") == "term"
    attach.stdin.close()
    assert attach.wait(60) == 4 and eng.ok("wait", "reader") == "4"
    # A daemon that comes later finds everything in the successor, and what was printed meanwhile.
    eng.kill9()
    time.sleep(0.3)
    eng.start()
    assert eng.inspect("counter")["State"]["Pid"] == counter
    touch(counter)
    assert eng.ok("wait", "counter") == "9"
    lines = eng.ok("logs", "counter").split("\n")
    assert lines == [str(n + 1) for n in range(len(lines))]


def test_exits_that_only_the_dead_keeper_had_seen(eng):
    """Exit codes, OOM and last words of containers that ended before a successor was there."""
    names = [f"gone{n}" for n in range(8)]
    pids = {name: run(eng, name, f"while [ ! -e /go ]; do sleep 0.02; done; echo bye; exit {n + 20}")
            for n, name in enumerate(names)}
    eng.arm("keeper.exit.collected", "stop")
    keeper = eng.keeper()
    for pid in pids.values():
        touch(pid)
    wait_for(lambda: all(process_state(p) in ("Z", "X", None) for p in pids.values()), "all have ended")
    wait_for(lambda: process_state(keeper) == "T", "the keeper has seen one")
    os.kill(keeper, signal.SIGKILL)
    for n, name in enumerate(names):
        assert eng.ok("wait", name) == str(n + 20)
        state = eng.inspect(name)["State"]
        assert (state["ExitCode"], state["Error"]) == (n + 20, "") and eng.ok("logs", name) == "bye"


def test_daemon_and_keeper_die_at_once(eng):
    """What runs is found again with its pipes; what ended meanwhile is declared lost."""
    pids = {"stays": run(eng, "stays", "trap '' PIPE; while [ ! -e /go ]; do sleep 0.02; done; cat; echo end; exit 7", "-i"),
            "ends": run(eng, "ends", "while [ ! -e /go ]; do sleep 0.02; done; exit 5"),
            "spills": run(eng, "spills", "trap '' PIPE; i=0; while [ ! -e /go ]; do i=$((i+1)); echo $i; sleep 0.05; "
                          "done; echo end; exit 6")}
    wait_for(lambda: eng.ok("logs", "spills"), "it prints")
    eng.kill9()
    time.sleep(0.3)  # the keeper collects what it prints
    eng.kill_keeper()
    touch(pids["ends"])
    wait_for(lambda: process_state(pids["ends"]) in ("Z", "X", None), "it ends")
    eng.start()
    state = eng.inspect("ends")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 255) and "unknown" in state["Error"]
    for name in ("stays", "spills"):
        state = eng.inspect(name)["State"]
        assert (state["Running"], state["Pid"]) == (True, pids[name]) and "may be missing" in state["Error"]
    attach = eng.popen("attach", "stays", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    touch(pids["stays"])
    assert attach.communicate(b"in and out\n", timeout=60)[0] == b"in and out\nend\n" and attach.returncode == 7
    touch(pids["spills"])
    assert eng.ok("wait", "spills") == "6"
    lines = eng.ok("logs", "spills").split("\n")
    numbers = [int(line) for line in lines[:-1]]
    assert lines[-1] == "end" and numbers == sorted(set(numbers)) and numbers[0] == 1
    assert eng.inspect("stays")["State"]["ExitCode"] == 7
    eng.ok("start", "ends")
    assert eng.inspect("ends")["State"]["Error"] == ""
    assert not list(eng.exec_root.glob("spill-*")) or eng.ok("ps", "-q")


def test_a_stopped_keeper_holds_no_boot_up(eng):
    """It is continued: what ran is adopted, what ended meanwhile has its exit code, nothing of the output is missing."""
    counter = run(eng, "counter", COUNTER)
    ends = run(eng, "ends", "while [ ! -e /go ]; do sleep 0.05; done; echo last; exit 7")
    keeper = eng.keeper()
    os.kill(keeper, signal.SIGSTOP)
    wait_for(lambda: process_state(keeper) == "T", "it is stopped")
    eng.kill9()
    touch(ends)
    wait_for(lambda: process_state(ends) == "Z", "nobody collects it")
    begin = time.monotonic()
    eng.start()
    took = time.monotonic() - begin
    assert took < 8, f"the boot took {took:.1f} s; a silent keeper has 10"
    assert eng.keeper() == keeper and process_state(keeper) != "T"
    assert eng.ok("wait", "ends") == "7" and eng.ok("logs", "ends") == "last"
    assert eng.inspect("counter")["State"]["Running"]
    touch(counter)
    assert eng.ok("wait", "counter") == "9"
    numbers = [int(line) for line in eng.ok("logs", "counter").split()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("victim", ["successor", "daemon"])
def test_death_in_the_midst_of_a_succession(eng, victim):
    pid = run(eng, "box", COUNTER)
    eng.arm("successor.connected", "stop")
    eng.kill_keeper()
    wait_for(lambda: process_state(eng.pid) == "T", "the successor is connected")
    if victim == "successor":
        eng.kill_keeper()
        os.kill(eng.pid, signal.SIGCONT)
    else:
        eng.kill9()
        eng.start()
    assert eng.ok("run", "--rm", "--network", "none", "busybox", "echo", "new") == "new"
    if eng.inspect("box")["State"]["Running"]:
        assert eng.inspect("box")["State"]["Pid"] == pid
        touch(pid)
        assert eng.ok("wait", "box") == "9"
    else:
        # It printed while nobody read: a broken pipe ends it.
        assert victim == "daemon" and eng.inspect("box")["State"]["ExitCode"] in (255, 141)


def test_a_keeper_that_dies_while_its_containers_are_taken_over(eng):
    pids = [run(eng, f"box{n}", "trap '' PIPE; while [ ! -e /go ]; do sleep 0.02; done; echo out; exit 7") for n in range(3)]
    eng.kill9()
    eng.arm("keeper.hand-over", "kill")
    eng.start()
    assert eng.fired("keeper.hand-over")
    for n, pid in enumerate(pids):
        assert eng.inspect(f"box{n}")["State"]["Pid"] == pid
        touch(pid)
        assert eng.ok("wait", f"box{n}") == "7" and eng.ok("logs", f"box{n}") == "out"


def test_a_launch_that_hangs_delays_no_exit(eng):
    """A start below a frozen group stops between clone and exec; others start, end and are told meanwhile."""
    parent = f"gty-frozen-{os.getpid()}"
    base = "/sys/fs/cgroup/freezer" if os.path.isdir("/sys/fs/cgroup/freezer") else "/sys/fs/cgroup"
    freezer = f"{base}/{parent}"
    state, frozen, thawed = ("freezer.state", "FROZEN", "THAWED") if base.endswith("freezer") else ("cgroup.freeze", "1", "0")
    eng.ok("create", "--name", "first", "--cgroup-parent", f"/{parent}", "--network", "none", "busybox", "sh", "-c", "exit 3")
    eng.ok("create", "--name", "stuck", "--cgroup-parent", f"/{parent}", "--network", "none", "busybox", "sh", "-c", "exit 3")
    eng.cli("start", "-a", "first")
    pid = run(eng, "other", "while [ ! -e /go ]; do sleep 0.02; done; exit 4")
    pathlib.Path(freezer, state).write_text(frozen)
    try:
        started = threading.Thread(target=lambda: eng.cli("start", "stuck"), daemon=True)
        started.start()
        time.sleep(0.5)
        assert started.is_alive() and eng.inspect("stuck")["State"]["Status"] == "created"
        touch(pid)
        assert eng.ok("wait", "other", timeout=30) == "4"
        assert eng.cli("run", "--rm", "--network", "none", "busybox", "sh", "-c", "exit 6", timeout=30).returncode == 6
        assert started.is_alive()
    finally:
        pathlib.Path(freezer, state).write_text(thawed)
    started.join(60)
    assert eng.ok("wait", "stuck") == "3"
    eng.ok("rm", "first", "stuck")
    for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/{parent}"):
        path.rmdir()


def older(eng):
    """The daemon's keepers are of an earlier version from here on, until it is started without this."""
    eng.stop()
    wait_for(lambda: not eng.keepers(), "no keeper is left")
    eng.extra_env["GANTRY_KEEPER_VERSION"] = str(OLD_VERSION)
    eng.start()


def newer(eng):
    eng.extra_env.pop("GANTRY_KEEPER_VERSION", None)
    if eng.alive():
        eng.kill9()
    eng.start()


def test_upgrade_beside_a_keeper_of_an_earlier_version(eng):
    older(eng)
    check_upgrade(eng, lambda: newer(eng))


@pytest.fixture(scope="module")
def old_keeper():
    """The keeper as it was at OLD_COMMIT, built once and kept below target/."""
    target = REPO / "target" / f"keeper-{OLD_COMMIT[:12]}"
    exe = target / "debug" / "gantry-keeper"
    if exe.exists():
        return exe
    archive = subprocess.run(["git", "-C", str(REPO), "archive", OLD_COMMIT], capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"no git history with {OLD_COMMIT[:12]}")
    with tempfile.TemporaryDirectory() as tree:
        subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
        built = subprocess.run(["cargo", "build", "--quiet", "--locked", "--offline", "-p", "gantry-keeper",
                                "--target-dir", str(target)], cwd=tree, capture_output=True, text=True)
    if built.returncode != 0:
        pytest.skip(f"the keeper of {OLD_COMMIT[:12]} can't be built here: {built.stderr[-500:]}")
    return exe


def test_upgrade_from_an_earlier_build(eng, old_keeper, workdir):
    """The same with the program of that time: the keeper lies beside the daemon's program."""
    eng.stop()
    wait_for(lambda: not eng.keepers(), "no keeper is left")
    programs = pathlib.Path(tempfile.mkdtemp(prefix="bin-", dir=workdir))
    ours = pathlib.Path(gantryd_binary())
    shutil.copy(ours, programs / "gantryd")
    shutil.copy(old_keeper, programs / "gantry-keeper")
    eng.binary = str(programs / "gantryd")
    eng.start()

    def upgrade():
        (programs / "gantry-keeper").unlink()
        shutil.copy(ours.with_name("gantry-keeper"), programs / "gantry-keeper")
        eng.start()

    check_upgrade(eng, upgrade)


def check_upgrade(eng, upgrade):
    """Containers of an older keeper are listed, adopted, signalled, entered, handed over and forgotten; new work goes to
    a keeper of this version beside it; the old one ends with its last container."""
    counter = run(eng, "counter", COUNTER)
    reader = run(eng, "reader", "while read x; do echo got $x; done; exit 4", "-i")
    run(eng, "term", "trap 'echo term; exit 6' TERM; while :; do sleep 0.05; done")
    tty = run(eng, "tty", "read x; stty size; exit 8", "-t", "-i")
    ended = run(eng, "ended", "while [ ! -e /go ]; do sleep 0.02; done; echo bye; exit 5")
    wait_for(lambda: eng.ok("logs", "counter"), "it prints")
    old = socket_owner(eng, "keeper-0.sock")
    eng.kill9()
    touch(ended)
    wait_for(lambda: process_state(ended) in ("Z", "X", None), "it ends")
    time.sleep(0.2)
    upgrade()
    wait_for(lambda: (eng.exec_root / "keeper-0.1.sock").exists(), "a keeper of the next generation")
    new = eng.keepers()["0.1"]
    assert new != old
    assert eng.ok("wait", "ended") == "5" and eng.ok("logs", "ended") == "bye"
    for name, pid in (("counter", counter), ("reader", reader), ("tty", tty)):
        assert eng.inspect(name)["State"]["Pid"] == pid
    fresh = run(eng, "fresh", "while [ ! -e /go ]; do sleep 0.02; done; exit 2")
    assert parent_of(fresh) == new and parent_of(counter) == old
    done = eng.cli("exec", "counter", "sh", "-c", "echo in; exit 3")
    assert (done.stdout, done.returncode) == ("in\n", 3)
    attach = eng.popen("attach", "reader", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert attach.communicate(b"one\n", timeout=60)[0] == b"got one\n" and attach.returncode == 4
    assert eng.json("POST", "/containers/tty/resize?h=33&w=77")[0] == 200
    eng.ok("stop", "-t", "30", "term")
    assert eng.inspect("term")["State"]["ExitCode"] == 6
    # Once more: the keepers are found as they are.
    eng.kill9()
    eng.start()
    assert eng.keepers()["0.1"] == new and not (eng.exec_root / "keeper-0.2.sock").exists()
    assert parent_of(run(eng, "again", "exit 0")) in (new, None)
    touch(counter)
    assert eng.ok("wait", "counter") == "9"
    lines = eng.ok("logs", "counter").split("\n")
    assert lines == [str(n + 1) for n in range(len(lines))]
    eng.ok("kill", "tty")
    assert eng.ok("wait", "tty") == "137"
    wait_for(lambda: process_state(old) in ("Z", "X", None), "the old keeper ends with its last container")
    wait_for(lambda: not (eng.exec_root / "keeper-0.sock").exists(), "its socket is gone")
    touch(fresh)
    assert eng.ok("wait", "fresh") == "2"


def test_what_an_older_keeper_has_survives_its_death(eng):
    """No pidfd came with the launch: it is opened by process id and start time."""
    older(eng)
    pids = [run(eng, f"box{n}", f"trap '' PIPE; while [ ! -e /go ]; do sleep 0.02; done; echo out; exit {n + 7}")
            for n in range(2)]
    newer(eng)
    eng.kill_keeper()
    touch(pids[0])
    assert eng.ok("wait", "box0") == "7" and eng.ok("logs", "box0") == "out"
    assert eng.cli("exec", "box1", "sh", "-c", "exit 3").returncode == 3
    touch(pids[1])
    assert eng.ok("wait", "box1") == "8" and eng.ok("logs", "box1") == "out"


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return int(f.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def socket_owner(eng, name):
    """The keeper that serves a socket: one of an earlier version leaves no pid file."""
    pid = eng.inspect("counter")["State"]["Pid"]
    assert (eng.exec_root / name).exists()
    return parent_of(pid)
