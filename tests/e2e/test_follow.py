"""A client that follows a log, is cut off again and again, and goes on with `since`: it sees each line once, whatever
happens to the files and to the daemon meanwhile."""
import calendar
import glob
import os
import random
import re
import threading
import time

import pytest
from conftest import FULL
from engine import wait_for
from test_streams import create, json_log, start

pytestmark = pytest.mark.gantry
ROTATIONS, KILLS = (1_000, 20) if FULL else (60, 3)
MAX_SIZE, MAX_FILES = 10_000, 150
# A record with one of the lines below, and so many lines that the files rotate as often as is asked for.
RECORD_BYTES = {"json-file": 78, "local": 18}
LINES = {driver: ROTATIONS * MAX_SIZE // size for driver, size in RECORD_BYTES.items()}
TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")


def unix_ns(stamp):
    """`since` as the docker CLI writes it: seconds and nanoseconds."""
    seconds, nanoseconds = TIME.fullmatch(stamp).groups()
    whole = time.strptime(seconds.decode(), "%Y-%m-%dT%H:%M:%S")
    return f"{calendar.timegm(whole)}.{nanoseconds.decode()}"


def script(lines, burst):
    """What is written while the client is away must not be rotated away: lines come in bursts, with a rest between."""
    return f"""i=0; while [ $i -lt {lines} ]; do
  echo "line $i"; i=$((i+1)); [ $((i % {burst})) = 0 ] && usleep 4000
done; true"""


class Follower:
    """Lines of a log with their times, over any number of connections."""

    def __init__(self, engine, cid, lines):
        self.engine, self.cid, self.expected = engine, cid, lines
        self.last, self.lines, self.connections, self.repeated = b"", [], 0, 0

    def run(self):
        """Until the log has ended."""
        chance = random.Random(4)
        while not self.ended():
            try:
                self.follow(chance.randrange(1_000, 20_000))
            except (OSError, ValueError, IndexError):
                time.sleep(0.05)  # the daemon is gone, or went within a line

    def ended(self):
        return len(self.lines) > 0 and self.lines[-1] == b"line %d\n" % (self.expected - 1)

    def follow(self, most):
        """One connection, left after so many lines."""
        self.connections += 1
        since = f"&since={unix_ns(self.last)}" if self.last else ""
        with self.engine.connect(60) as sock:
            sock.sendall(f"GET /v1.48/containers/{self.cid}/logs?follow=1&stdout=1&timestamps=1{since} HTTP/1.1\r\n"
                         "Host: d\r\n\r\n".encode())
            before = b""
            for stamp, line in records(sock, most):
                assert stamp > before, f"{stamp} after {before}"
                before = stamp
                if stamp <= self.last:
                    self.repeated += 1
                    continue
                self.last = stamp
                self.lines.append(line)


def records(sock, most):
    """Time and text of the records of a followed log."""
    f = sock.makefile("rb")
    assert b"200" in f.readline()
    while f.readline() not in (b"\r\n", b""):
        pass
    frames = b""
    for _ in range(most):
        while len(frames) < 8 or len(frames) < 8 + int.from_bytes(frames[4:8], "big"):
            size = int(f.readline(), 16)
            if size == 0:
                return
            chunk = f.read(size)
            if len(chunk) < size or f.readline() != b"\r\n":
                raise ConnectionError("cut off")
            frames += chunk
        end = 8 + int.from_bytes(frames[4:8], "big")
        stamp, _, line = frames[8:end].partition(b" ")
        frames = frames[end:]
        yield stamp, line


def rotated_files(engine, cid, driver):
    if driver == "local":
        names = os.listdir(engine.data_root / "containers" / cid / "local-logs")
        return [name for name in names if not name.endswith(".idx")]
    return glob.glob(glob.escape(engine.inspect(cid)["LogPath"]) + ".*")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_each_line_is_seen_once_through_rotations_and_kills(private_daemon, driver):
    eng, lines = private_daemon, LINES[driver]
    log = json_log(max_size=str(MAX_SIZE), max_file=str(MAX_FILES)) | {"Type": driver}
    burst = 20 * RECORD_BYTES["json-file"] // RECORD_BYTES[driver]
    cid = create(eng, script(lines, burst), HostConfig={"NetworkMode": "none", "LogConfig": log})
    start(eng, cid)
    follower = Follower(eng, cid, lines)
    thread = threading.Thread(target=follower.run)
    thread.start()
    for kill in range(KILLS):
        due = lines * (kill + 1) // (KILLS + 1)
        wait_for(lambda: len(follower.lines) > due or not thread.is_alive(), lambda: f"{len(follower.lines)} lines")
        eng.kill9()
        eng.start()
    thread.join(600)
    assert not thread.is_alive(), (len(follower.lines), follower.last, follower.connections)
    numbers = [int(line.removeprefix(b"line ")) for line in follower.lines]
    wrong = [(at, n) for at, n in enumerate(numbers) if at != n]
    assert not wrong and len(numbers) == lines, (wrong[:3], len(numbers), lines)
    assert follower.connections > KILLS and follower.repeated > 0
    rotated = rotated_files(eng, cid, driver)
    assert len(rotated) >= min(ROTATIONS, MAX_FILES) * 9 // 10, rotated
    if driver == "local":  # its files have numbers
        assert max(int(name.split(".")[1]) for name in rotated) >= ROTATIONS * 9 // 10
