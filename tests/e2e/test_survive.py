"""The daemon's own end: kill -9 at full rate, SIGTERM, adoption, a second daemon."""
import json
import os
import random
import signal
import subprocess
import threading
import time

import leaks
import pytest
from conftest import FULL
from engine import Daemon, wait_for

pytestmark = pytest.mark.gantry
CONTAINERS = 50 if FULL else 8
LINES = 100_000 if FULL else 30_000
KILLS = 4
LINE_BYTES = 1000


def log_path(eng, cid):
    path = eng.inspect(cid)["LogPath"]
    assert path and os.path.exists(path), path
    return path


def log_text(path):
    """The payloads of a json log put together; a torn or odd line is an error."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            assert line.endswith(b"\n"), f"{path}:{number} is torn"
            yield json.loads(line)


def check_numbered(path, lines):
    want = 1
    for record in log_text(path):
        got = int(record["log"])
        assert record["log"].endswith("\n") and len(record["log"]) == LINE_BYTES + 1
        assert got == want, f"{path}: line {got} where {want} belongs: " + \
            ("duplicate" if got < want else "gap")
        want += 1
    assert want == lines + 1, f"{path}: ends at {want - 1} of {lines}"


def proc_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_kill9_at_full_rate_loses_and_doubles_nothing(private_daemon):
    eng = private_daemon
    script = (f"awk 'BEGIN {{ for (i = 1; i <= {LINES}; i++) printf \"%0{LINE_BYTES}d\\n\", i }}'; exit $1")
    ids = [eng.ok("run", "-d", "--network", "none", "busybox", "sh", "-c", script, "sh", str(i + 1))
           for i in range(CONTAINERS)]
    logs = {cid: log_path(eng, cid) for cid in ids}
    full_size = LINES * (LINE_BYTES + 70) * CONTAINERS
    for kill in range(KILLS):
        target = full_size * (kill + 1) // (KILLS + 2)
        wait_for(lambda: sum(os.path.getsize(p) for p in logs.values()) >= target, "the logs grow", 600)
        eng.kill9()
        eng.start()
        # One list: between two of them a container may end.
        states = dict(x.split() for x in eng.ok("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").splitlines())
        assert set(states) == set(ids) and set(states.values()) <= {"running", "exited"}, states
    for i, cid in enumerate(ids):
        assert eng.ok("wait", cid, timeout=900) == str(i + 1)
        assert eng.inspect(cid)["State"]["ExitCode"] == i + 1
    for cid in ids:
        check_numbered(logs[cid], LINES)
    got = eng.ok("logs", ids[0]).splitlines()
    assert len(got) == LINES and got[0] == "1".zfill(LINE_BYTES) and got[-1] == str(LINES).zfill(LINE_BYTES)


def test_what_ends_while_the_daemon_is_down(private_daemon):
    """Exit codes, signals and last words of containers that end without a daemon."""
    eng = private_daemon
    gate = "while [ ! -e /go ]; do sleep 0.05; done; "
    ends = {
        "coded": (gate + "echo last words; echo bad news >&2; exit 37", 37),
        "fine": (gate + "exit 0", 0),
        "killed": ("exec sleep 600", 137),
        "stays": ("exec sleep 600", None),
    }
    for name, (script, _) in ends.items():
        eng.ok("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    pids = {name: eng.inspect(name)["State"]["Pid"] for name in ends}
    started = {name: eng.inspect(name)["State"]["StartedAt"] for name in ends}
    eng.kill9()
    for name in ("coded", "fine"):
        with open(f"/proc/{pids[name]}/root/go", "w"):
            pass
    os.kill(pids["killed"], signal.SIGKILL)
    for name in ("coded", "fine", "killed"):
        wait_for(lambda name=name: proc_gone(pids[name]), f"{name} ends")
    eng.start()
    for name, (_, code) in ends.items():
        if code is not None:
            assert eng.ok("wait", name) == str(code)
        state = eng.inspect(name)["State"]
        assert state["StartedAt"] == started[name]
        assert (state["Running"], state["ExitCode"]) == (code is None, code or 0), name
    assert eng.inspect("stays")["State"]["Pid"] == pids["stays"]
    done = eng.cli("logs", "coded")
    assert (done.stdout, done.stderr) == ("last words\n", "bad news\n")


def test_sigterm_leaves_containers_and_a_restart_adopts_them(private_daemon):
    eng = private_daemon
    eng.ok("run", "-d", "-i", "--name", "cc", "busybox", "sh", "-c", "while read x; do echo got $x; done; exit 5")
    before = eng.inspect("cc")["State"]
    eng.stop()
    assert not proc_gone(before["Pid"])
    eng.start()
    after = eng.inspect("cc")["State"]
    assert (after["Pid"], after["StartedAt"], after["Running"]) == (before["Pid"], before["StartedAt"], True)
    attach = eng.popen("attach", "cc", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    attach.stdin.write(b"one\n")
    attach.stdin.flush()
    assert attach.stdout.readline() == b"got one\n"
    attach.kill()
    attach.communicate()
    eng.ok("stop", "-t", "0", "cc")
    assert eng.inspect("cc")["State"]["ExitCode"] == 137
    eng.ok("start", "cc")
    assert eng.ok("logs", "cc") == "got one"


def test_auto_remove_holds_over_a_restart(private_daemon):
    eng = private_daemon
    eng.ok("run", "-d", "--rm", "--name", "rr", "busybox", "sleep", "600")
    pid = eng.inspect("rr")["State"]["Pid"]
    eng.kill9()
    os.kill(pid, signal.SIGKILL)
    eng.start()
    wait_for(lambda: eng.ok("ps", "-aq") == "", "it is removed")


def test_created_and_exited_containers_and_images_are_remembered(private_daemon):
    eng = private_daemon
    eng.ok("create", "--name", "aa", "--label", "x=y", "busybox", "echo", "later")
    eng.cli("run", "--name", "bb", "busybox", "sh", "-c", "exit 9")
    before = {n: eng.inspect(n) for n in ("aa", "bb")}
    images = eng.json("GET", "/images/json")
    for end in (eng.kill9, eng.stop):
        end()
        eng.start()
        assert {n: eng.inspect(n) for n in ("aa", "bb")} == before
        assert eng.json("GET", "/images/json") == images
    assert eng.ok("start", "-a", "aa") == "later"


def test_kill9_between_many_operations(private_daemon):
    """Whatever was announced is still true after a kill -9."""
    eng = private_daemon
    for round_no in range(10 if FULL else 4):
        name = f"k{round_no}"
        cid = eng.ok("create", "--name", name, "busybox", "sleep", "600")
        eng.kill9()
        eng.start()
        assert eng.inspect(name)["Id"] == cid
        eng.ok("start", name)
        eng.kill9()
        eng.start()
        assert eng.inspect(name)["State"]["Running"]
        eng.ok("rm", "-f", name)
        eng.kill9()
        eng.start()
        assert eng.json("GET", f"/containers/{cid}/json")[0] == 404


def test_kill9_in_the_midst_of_lives_loses_and_leaks_nothing(private_daemon):
    """4 clients create, start and wait while the daemon is killed again and again. Afterwards every answer that was
    given is true, and no control group, directory, process or descriptor is left."""
    eng, lives = private_daemon, 400 if FULL else 60
    before = leaks.settled(eng)
    numbers, created, started = iter(range(1, lives + 1)), {}, set()

    def live(n):
        name, keep = f"life{n}", n % 5 != 0
        status, _ = eng.json("POST", f"/v1.48/containers/create?name={name}", {
            "Image": "busybox", "Cmd": ["sh", "-c", f"echo out{n}; sleep 0.{n % 4}; exit {n % 200 + 1}"],
            "HostConfig": {"NetworkMode": "none", "AutoRemove": not keep}}, timeout=60)
        assert status == 201
        created[name] = keep
        assert eng.json("POST", f"/v1.48/containers/{name}/start", timeout=60)[0] == 204
        started.add(name)
        if n % 3 == 0 and keep:
            status, doc = eng.json("POST", f"/v1.48/containers/{name}/wait", timeout=60)
            assert (status, doc or {"StatusCode": n % 200 + 1}) == (200, {"StatusCode": n % 200 + 1})

    wrong = []

    def client():
        while (n := next(numbers, None)) is not None:
            try:
                live(n)
            except (OSError, ValueError, IndexError):
                time.sleep(0.1)  # the daemon died: nothing was promised
            except AssertionError as e:
                wrong.append(f"life{n}: {e}")

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients):
        time.sleep(random.uniform(0.05, 0.6))
        eng.kill9()
        eng.start()
    assert not wrong
    wait_for(lambda: not eng.ok("ps", "-q"), "every life has ended")
    listed = set(eng.ok("ps", "-a", "--format", "{{.Names}}").split())
    assert {name for name, keep in created.items() if keep} <= listed
    gone = {name for name, keep in created.items() if not keep and name in started}
    wait_for(lambda: not gone & set(eng.ok("ps", "-a", "--format", "{{.Names}}").split()), "--rm has removed")
    for name in sorted(listed & started - gone):
        n, state = int(name[4:]), eng.inspect(name)["State"]
        assert (state["Status"], state["ExitCode"], eng.ok("logs", name)) == ("exited", n % 200 + 1, f"out{n}")
    eng.remove_all()
    leaks.assert_no_growth(eng, before)


def test_second_daemon_on_the_same_data_root_is_refused(private_daemon, workdir):
    eng = private_daemon
    other = Daemon(workdir / "second")
    other.data_root, other.exec_root = eng.data_root, other.exec_root
    done = subprocess.run(other.command(), capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 101), done.stderr
    assert str(eng.data_root) in done.stderr + done.stdout
    assert eng.ok("run", "--rm", "busybox", "echo", "first") == "first"


def test_sigterm_ends_in_order_without_containers(workdir):
    eng = Daemon(workdir / "order")
    eng.start()
    pidfile = eng.workdir / "gantryd.pid"
    assert pidfile.read_text().strip() == str(eng.pid)
    eng.stop()
    assert not os.path.exists(eng.socket_path) and not pidfile.exists()


@pytest.mark.parametrize("args,text", [
    (["--nosuch-flag"], "unknown flag: --nosuch-flag"),
    (["-H", "nonsense://x"], "nonsense"),
    (["--debug=perhaps"], "perhaps"),
])
def test_bad_flags_are_clear_errors(args, text):
    from engine import gantryd_binary
    done = subprocess.run([gantryd_binary(), *args], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 101) and text in done.stderr + done.stdout


def test_validate_and_version(tmp_path):
    from engine import gantryd_binary
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"debug": true}')
    bad.write_text('{"debug": tru')
    run = lambda *a: subprocess.run([gantryd_binary(), *a], capture_output=True, text=True, timeout=60)
    assert run("--validate", "--config-file", str(good)).returncode == 0
    assert run("--validate", "--config-file", str(bad)).returncode not in (0, 101)
    assert run("--version").returncode == 0 and "ersion" in run("--version").stdout
