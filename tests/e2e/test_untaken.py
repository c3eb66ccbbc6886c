"""Running containers that the daemon cannot take over when it comes back: they run on, can be ended, and are tried again.

What it fails on is a note below its exec-root that is no note.
"""
import os
import signal
import time

import leaks
import pytest
from engine import wait_for
from test_streams import create, logs, start

pytestmark = pytest.mark.gantry
# It ends when it is told to, with a code of its own; each line is printed once.
SCRIPT = "trap 'echo bye; exit 9' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done"


class Stumbling:
    """A container that a daemon which comes back stumbles over as long as the note is there."""

    def __init__(self, engine, **host):
        self.engine = engine
        self.cid = create(engine, SCRIPT, HostConfig={"NetworkMode": "none"} | host)
        start(engine, self.cid)
        wait_for(lambda: b"3\n" in logs(engine, self.cid, "stdout=1")[0], "output")
        self.pid = self.state()["Pid"]
        self.bundle = engine.exec_root / "oci" / self.cid

    def state(self):
        return self.engine.inspect(self.cid)["State"]

    def stumble(self):
        self.bundle.mkdir()
        (self.bundle / "runtime.json").write_text("no note")

    def mend(self):
        (self.bundle / "runtime.json").unlink()
        self.bundle.rmdir()

    def assert_untaken(self):
        state = self.state()
        assert (state["Status"], state["Pid"]) == ("running", self.pid), state
        assert "could not be taken over" in state["Error"] and "read the note of a bundle" in state["Error"], state
        assert os.path.exists(f"/proc/{self.pid}")
        done = self.engine.cli("exec", self.cid, "true")
        assert done.returncode == 128 and "could not be taken over" in done.stdout + done.stderr, done
        assert self.engine.cli("pause", self.cid).returncode == 1
        assert self.engine.cli("update", "--memory", "64m", "--memory-swap", "64m", self.cid).returncode == 1
        assert self.cid[:12] in self.engine.ok("ps", "-q")

    def assert_taken(self):
        wait_for(lambda: self.engine.cli("exec", self.cid, "true").returncode == 0, "it is taken over")
        state = self.state()
        assert (state["Status"], state["Pid"]) == ("running", self.pid), state

    def assert_whole(self):
        lines = logs(self.engine, self.cid, "stdout=1")[0].split(b"\n")
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers == list(range(len(numbers))) and len(numbers) > 3


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_one_that_is_taken_over_later(private_daemon, how):
    box = Stumbling(private_daemon)
    getattr(private_daemon, how)()
    box.stumble()
    private_daemon.start()
    time.sleep(1.5)
    box.assert_untaken()
    # Another daemon does no better, and nothing is lost by it.
    getattr(private_daemon, how)()
    private_daemon.start()
    box.assert_untaken()
    with private_daemon.popen("wait", box.cid, stdout=-1) as waiting:
        box.mend()
        box.assert_taken()
        assert box.state()["Error"] == ""
        private_daemon.ok("stop", "-t", "60", box.cid)
        assert waiting.stdout.read() == b"9\n"
    assert box.state()["ExitCode"] == 9
    box.assert_whole()
    assert logs(private_daemon, box.cid, "stdout=1")[0].endswith(b"\nbye\n")


@pytest.mark.parametrize("end", ["stop", "kill", "rm", "itself"])
def test_one_that_ends_before(private_daemon, end):
    box = Stumbling(private_daemon)
    private_daemon.kill9()
    box.stumble()
    private_daemon.start()
    box.assert_untaken()
    if end == "rm":
        private_daemon.ok("rm", "-f", box.cid)
        assert not os.path.exists(f"/proc/{box.pid}")
        assert private_daemon.cli("inspect", box.cid).returncode == 1
    else:
        with private_daemon.popen("wait", box.cid, stdout=-1) as waiting:
            time.sleep(0.2)
            if end == "itself":
                os.kill(box.pid, signal.SIGTERM)
            else:
                private_daemon.ok(*{"stop": ("stop", "-t", "60"), "kill": ("kill",)}[end], box.cid)
            code = 137 if end == "kill" else 9
            assert waiting.stdout.read() == b"%d\n" % code
        state = box.state()
        assert (state["Status"], state["Pid"], state["ExitCode"], state["Error"]) == ("exited", 0, code, ""), state
        box.mend()
        private_daemon.ok("start", box.cid)
        assert private_daemon.ok("exec", box.cid, "echo", "again") == "again"
        private_daemon.ok("rm", "-f", box.cid)
    if box.bundle.exists():
        box.mend()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_one_whose_keeper_dies_too(private_daemon, when):
    box = Stumbling(private_daemon)
    keepers = [pid for pid, what in leaks.engine_processes(private_daemon).items() if "keeper" in what]
    assert keepers
    private_daemon.kill9()
    box.stumble()
    if when == "meanwhile":
        private_daemon.start()
        box.assert_untaken()
    for keeper in keepers:
        os.kill(keeper, signal.SIGKILL)
    if when == "before":
        private_daemon.start()
    time.sleep(1.5)
    box.assert_untaken()
    box.mend()
    box.assert_taken()
    assert "may be missing" in box.state()["Error"]
    private_daemon.ok("stop", "-t", "60", box.cid)
    assert box.state()["ExitCode"] == 9
