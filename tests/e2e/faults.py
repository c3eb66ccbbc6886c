"""Fault points of daemon and keeper (crates/keeper-proto/src/fault.rs): arming, and killing what they stopped."""
import glob
import os
import signal

from engine import Daemon, wait_for


def process_state(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


class FaultyDaemon(Daemon):
    """A gantryd with one shard whose fault points can be armed while it runs."""

    def __init__(self, root, shards=1):
        super().__init__(root, ["--shards", str(shards)])
        self.faults = self.workdir / "faults"
        self.faults.mkdir()
        self.made = set()
        self.binary = None
        self.extra_env = {"GANTRY_FAULT_DIR": str(self.faults)}

    def command(self, sock=None):
        command = super().command(sock)
        return [self.binary or command[0], *command[1:]]

    def arm(self, point, action):
        # Whole at once: the point may be reached at any time.
        (self.faults / f".{point}").write_text(action)
        (self.faults / f".{point}").rename(self.faults / point)

    def fired(self, point):
        return not (self.faults / point).exists()

    def disarm(self):
        for path in self.faults.iterdir():
            path.unlink()

    def keepers(self):
        """Pids of the keepers that live, by the name in their pid file."""
        found = {}
        for path in glob.glob(f"{self.exec_root}/keeper-*.pid"):
            try:
                with open(path) as f:
                    pid = int(f.read().split()[0])
            except (OSError, IndexError):
                continue
            if process_state(pid) not in (None, "Z", "X"):
                found[os.path.basename(path)[7:-4]] = pid
        return found

    def keeper(self):
        return wait_for(lambda: self.keepers().get("0"), "a keeper")

    def kill_keeper(self):
        pid = self.keeper()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: process_state(pid) in (None, "Z", "X"), "the keeper is dead")
        return pid

    def wait_fired(self, point):
        wait_for(lambda: self.fired(point), f"{point} is reached", 60)

    def revive(self):
        """Start again if it is dead; go on if a point stopped it."""
        if self.alive() and process_state(self.pid) == "T":
            self.kill9()
        if not self.alive():
            self.start()
