"""Log directories that fail: the container runs on, what is lost is said exactly, and the log goes on by itself.

The faults are mounted in a mount namespace of the daemon's own, which lives through its restarts.
"""
import contextlib
import errno
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import leaks
import pytest
from engine import Daemon, wait_for
from test_streams import create, logs, start

pytestmark = pytest.mark.gantry
FULL = os.environ.get("GANTRY_FULL") == "1"
FAULTFS = pathlib.Path(__file__).with_name("faultfs.py")
DRIVERS = ("json-file", "local")
GAP = re.compile(rb"\[gantry: (\d+) bytes of output in (\d+) records are missing here: the log could not be written \((.*)\)\]")
# Prints lines of 300 bytes until it is told to end, and then how many it printed; where it is stands in a file.
PAD = "x" * 280
SCRIPT = (f"trap 'e=1' TERM; i=0; while [ -z \"$e\" ]; do echo line $i {PAD}; i=$((i+1)); "
          "if [ $((i % 50)) = 0 ]; then echo $i > /dev/shm/at; usleep 20000; fi; done; echo end $i; exit 7")


class Apart(Daemon):
    """A daemon in a mount namespace that outlives it."""

    def __init__(self, root):
        super().__init__(root)
        self.holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"],
                                       stdout=subprocess.PIPE)
        self.holder.stdout.readline()

    def command(self, sock=None):
        return ["nsenter", "-m", "-t", str(self.holder.pid), *super().command(sock)]

    def inside(self, *command, **kw):
        return subprocess.run(["nsenter", "-m", "-t", str(self.holder.pid), *command], check=True, capture_output=True,
                              text=True, **kw).stdout

    def close(self):
        self.holder.kill()
        self.holder.wait()

    def point_log_to(self, cid, driver, directory):
        """The container's log is made in another directory."""
        own = self.data_root / "containers" / cid
        own.mkdir(mode=0o710, exist_ok=True)
        if driver == "local":
            (own / "local-logs").symlink_to(directory)
        else:
            (own / f"{cid}-json.log").symlink_to(directory / "log")

    @contextlib.contextmanager
    def failing(self, cid, driver, tmp_path):
        """The log directory fails as the given function is told: errnos by operation; none is no fault."""
        directory, faults = tmp_path / "log", tmp_path / "faults"
        directory.mkdir()
        server = subprocess.Popen(["nsenter", "-m", "-t", str(self.holder.pid), sys.executable, str(FAULTFS),
                                   str(directory), str(faults)], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"mounted\n"
        self.point_log_to(cid, driver, directory)

        def tell(**errnos):
            new = faults.with_suffix(".new")
            new.write_text(json.dumps(errnos))
            new.rename(faults)
        try:
            yield tell
        finally:
            tell()
            if not self.alive():
                self.start()
            self.cli("rm", "-f", cid)
            self.inside("umount", "-l", str(directory))
            server.terminate()
            server.wait()


@pytest.fixture(scope="module")
def apart(workdir, image_tar):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here")
    engine = Apart(workdir / "apart")
    engine.start()
    engine.ok("load", "-i", str(image_tar))
    try:
        yield engine
    finally:
        if not engine.alive():
            engine.start()
        engine.remove_all()
        engine.stop()
        leaks.assert_nothing_left(engine)
        engine.close()


def prepare(engine, driver, script=SCRIPT):
    return create(engine, script, HostConfig={"NetworkMode": "none", "LogConfig": {"Type": driver, "Config": {}}})


def printed(engine, cid):
    """How many lines it has printed, about."""
    pid = engine.inspect(cid)["State"]["Pid"]
    try:
        return int(pathlib.Path(f"/proc/{pid}/root/dev/shm/at").read_text() or 0)
    except FileNotFoundError:
        return 0


def prints(engine, cid, lines=600):
    """Waits for so many lines more (180 kB: more than its pipe holds)."""
    before = printed(engine, cid)
    wait_for(lambda: printed(engine, cid) >= before + lines, f"{lines} lines after {before}")


def end_and_count(engine, cid, runs=1):
    """Ends it, and gives what the log of so many runs lacks as it is and as the log says: (records, bytes), and the number
    of gaps."""
    engine.ok("stop", "-t", "60", cid)
    assert engine.inspect(cid)["State"]["ExitCode"] == 7
    out, err = logs(engine, cid, "stdout=1&stderr=1")
    missing, size, expected, ends = 0, 0, 0, 0
    for line in out.splitlines():
        word, number = line.split()[0], int(line.split()[1])
        assert word in (b"line", b"end") and number >= expected, (line, expected)
        missing += number - expected
        size += sum(len(f"line {n} {PAD}\n") for n in range(expected, number))
        expected = number + 1 if word == b"line" else 0
        ends += word == b"end"
    assert ends == runs and expected == 0, out[-100:]
    said = [(int(records), int(size)) for size, records, _ in GAP.findall(err)]
    return (missing, size), tuple(map(sum, zip(*said))) if said else (0, 0), len(said)


def lost(engine):
    counted = engine.debug()["logs"]
    return counted["lost_records"], counted["lost_bytes"]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "EROFS"])
def test_a_log_that_fails_for_a_while(apart, tmp_path, driver, kind):
    number, cid = getattr(errno, kind), prepare(apart, driver)
    faults = {"ENOSPC": {"torn_write": number}, "EIO": {"torn_write": number, "setattr": number},
              "EROFS": {"write": number, "setattr": number}}[kind]
    with apart.failing(cid, driver, tmp_path) as fail:
        before = lost(apart)
        start(apart, cid)
        prints(apart, cid)
        for _ in range(2):
            fail(**faults)
            prints(apart, cid, 2000)
            fail()
            prints(apart, cid)
        really, said, gaps = end_and_count(apart, cid)
        assert really == said and really[0] > 1000 and gaps >= 2
        after = lost(apart)
        assert (after[0] - before[0], after[1] - before[1]) == said
        # The next start finds the files sound, and goes on.
        told = apart.log_path.stat().st_size
        start(apart, cid)
        prints(apart, cid, 50)
        assert end_and_count(apart, cid, runs=2)[1] == said
        assert "damaged" not in apart.log_path.read_text()[told:]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_a_daemon_that_comes_back_while_a_log_cannot_be_opened(apart, tmp_path, driver, how):
    cid = prepare(apart, driver)
    errnos = {"stop": {"lookup": errno.EIO}, "kill9": {"open_write": errno.ENOSPC, "create": errno.ENOSPC}}[how]
    with apart.failing(cid, driver, tmp_path) as fail:
        start(apart, cid)
        prints(apart, cid)
        pid = apart.inspect(cid)["State"]["Pid"]
        for life in range(2):
            getattr(apart, how)()
            fail(**errnos)
            apart.start()
            state = apart.inspect(cid)["State"]
            assert (state["Status"], state["Pid"], state["Error"]) == ("running", pid, ""), state
            prints(apart, cid)
        # Everything but the log is there.
        assert apart.ok("exec", cid, "echo", "inside") == "inside"
        with apart.popen("attach", "--no-stdin", "--sig-proxy=false", cid, stdout=subprocess.PIPE) as client:
            assert any(line.startswith(b"line ") for line in (client.stdout.readline() for _ in range(3)))
            client.terminate()
        status, answer = apart.json("GET", f"/v1.48/containers/{cid}/logs?stdout=1&follow=1")
        assert status == 500 and "can't be opened and is not followed" in answer["message"], answer
        if how == "stop":
            status, answer = apart.json("GET", f"/v1.48/containers/{cid}/logs?stdout=1")
            assert status == 500 and "Input/output error" in answer["message"], answer
        else:
            assert logs(apart, cid, "stdout=1&tail=1")[0].startswith(b"line ")
        counted = lost(apart)
        assert counted[0] > 0
        fail()
        # It is open again by itself, and says at once what it lacks.
        wait_for(lambda: GAP.search(logs(apart, cid, "stdout=1&stderr=1")[1]), "the log is open again")
        prints(apart, cid)
        really, said, gaps = end_and_count(apart, cid)
        assert really == said and really[0] > 100 and gaps >= 1
        assert lost(apart)[0] <= said[0]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_end_while_the_log_cannot_be_opened(apart, tmp_path, driver):
    cid = prepare(apart, driver, "trap 'exit 9' TERM; echo begin; while :; do echo more; usleep 100000; done")
    with apart.failing(cid, driver, tmp_path) as fail:
        start(apart, cid)
        wait_for(lambda: b"more" in logs(apart, cid, "stdout=1")[0], "output")
        apart.kill9()
        fail(lookup=errno.EIO)
        apart.start()
        with apart.popen("wait", cid, stdout=subprocess.PIPE) as client:
            time.sleep(0.5)
            apart.ok("stop", "-t", "60", cid)
            assert client.stdout.read() == b"9\n"
        # It cannot be started either, and nothing of that is left.
        done = apart.cli("start", cid)
        refused = "failed to create task for container: failed to initialize logging driver: open "
        assert done.returncode == 1 and f"{refused}/" in done.stderr and ": input/output error" in done.stderr, done
        state = apart.inspect(cid)["State"]
        assert (state["Status"], state["Pid"], state["ExitCode"]) == ("exited", 0, 128), state
        assert state["Error"].startswith(refused), state
        fail()
        apart.ok("start", cid)
        out, _ = logs(apart, cid, "stdout=1")
        assert out.startswith(b"begin\nmore\n") and out.count(b"begin") == 2, out


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_log_on_a_file_system_that_is_read_only(apart, tmp_path, driver):
    directory, cid = tmp_path / "log", prepare(apart, driver)
    directory.mkdir()
    apart.inside("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(directory))
    try:
        apart.point_log_to(cid, driver, directory)
        start(apart, cid)
        prints(apart, cid)
        apart.kill9()
        apart.inside("mount", "-o", "remount,ro", str(directory))
        apart.start()
        prints(apart, cid)
        # What was logged can be read, and no more is said to come.
        assert logs(apart, cid, "stdout=1")[0].startswith(b"line 0 ")
        status, answer = apart.json("GET", f"/v1.48/containers/{cid}/logs?stdout=1&follow=1")
        assert status == 500 and "Read-only file system" in answer["message"], answer
        apart.inside("mount", "-o", "remount,rw", str(directory))
        wait_for(lambda: GAP.search(logs(apart, cid, "stdout=1&stderr=1")[1]), "the log is open again")
        really, said, _ = end_and_count(apart, cid)
        assert really == said and really[0] > 100
    finally:
        apart.cli("rm", "-f", cid)
        apart.inside("umount", "-l", str(directory))


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_a_full_data_root(workdir, image_tar, how):
    """Containers run on; a daemon that comes back to it does not start, says why, and takes them over when there is room."""
    engine = Apart(workdir / f"full-{how}")
    engine.data_root.mkdir()
    engine.inside("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(engine.data_root))
    engine.start()
    try:
        engine.ok("load", "-i", str(image_tar))
        boxes = [prepare(engine, driver) for driver in DRIVERS]
        for cid in boxes:
            start(engine, cid)
            prints(engine, cid)
        pids = [engine.inspect(cid)["State"]["Pid"] for cid in boxes]
        ballast = f"{engine.data_root}/ballast"
        fill = ["sh", "-c", f"cat /dev/zero > {ballast} 2>/dev/null || true"]
        engine.inside(*fill)
        for cid in boxes:
            prints(engine, cid, 2000)
            assert engine.ok("exec", cid, "echo", "inside") == "inside"
        getattr(engine, how)()
        engine.inside("sh", "-c", f"cat /dev/zero >> {ballast} 2>/dev/null || true")
        with pytest.raises(AssertionError, match="No space left on device"):
            engine.start()
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
        engine.inside("rm", ballast)
        engine.start()
        for cid, pid in zip(boxes, pids):
            state = engine.inspect(cid)["State"]
            assert (state["Status"], state["Pid"]) == ("running", pid), state
            prints(engine, cid)
            really, said, gaps = end_and_count(engine, cid)
            assert really == said and gaps >= 1 and really[0] > 100
    finally:
        engine.inside("rm", "-f", f"{engine.data_root}/ballast")
        if not engine.alive():
            engine.start()
        engine.remove_all()
        engine.stop()
        engine.inside("umount", "-l", str(engine.data_root))
        leaks.assert_nothing_left(engine)
        engine.close()
