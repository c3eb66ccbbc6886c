"""Many lives and execs in a row: descriptors, threads and memory of daemon and keepers come back to where they were."""
import pathlib
import re
import tempfile
import threading
import time

import leaks
import pytest
from conftest import FULL
from engine import Daemon, wait_for

pytestmark = pytest.mark.gantry
EXECS, LIVES = (10_000, 2_000) if FULL else (300, 100)
# So many that what is remembered of ended execs (MAX_ENDED_EXECS) and of events has its bound before the measurement.
WARM_UP_EXECS, WARM_UP_LIVES = (5_000, 500) if FULL else (100, 50)
CLIENTS = 4
# What an allocator may keep of many threads' work; a leak of 1 KiB per exec is more.
DAEMON_SLACK_KIB = 6_144
KEEPER_SLACK_KIB = 512


def memory_kib(eng):
    """Resident memory of the daemon, and of its keepers together."""
    sums = {"daemon": 0, "keepers": 0}
    for pid, name in leaks.engine_processes(eng).items():
        if pid != eng.pid and "keeper" not in name:
            continue
        found = re.search(r"VmRSS:\s+(\d+)", leaks.read(f"/proc/{pid}/status"))
        sums["daemon" if pid == eng.pid else "keepers"] += int(found.group(1)) if found else 0
    return sums


def many(count, one):
    """Calls `one` that often, from a few threads."""
    numbers, wrong = iter(range(count)), []

    def client():
        for n in iter(lambda: next(numbers, None), None):
            try:
                one(n)
            except Exception as e:  # told by the test's thread
                wrong.append(f"{n}: {e!r}")
                return

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def life(eng, n):
    status, doc = eng.json("POST", "/v1.48/containers/create", {
        "Image": "busybox", "Cmd": ["sh", "-c", f"echo {n}; exit {n % 7}"], "HostConfig": {"NetworkMode": "none"}})
    assert status == 201, doc
    cid = doc["Id"]
    assert eng.http("POST", f"/v1.48/containers/{cid}/start")[0] == 204
    status, doc = eng.json("POST", f"/v1.48/containers/{cid}/wait")
    assert (status, doc["StatusCode"]) == (200, n % 7)
    assert eng.http("DELETE", f"/v1.48/containers/{cid}")[0] == 204


def run_exec(eng, box, n):
    status, doc = eng.json("POST", f"/v1.48/containers/{box}/exec", {
        "Cmd": ["sh", "-c", f"exit {n % 7}"], "AttachStdout": True})
    assert status == 201, doc
    status, _, data = eng.http("POST", f"/v1.48/exec/{doc['Id']}/start", {"Detach": False, "Tty": False})
    assert (status, data) == (200, b"")
    assert eng.json("GET", f"/v1.48/exec/{doc['Id']}/json")[1]["ExitCode"] == n % 7


def test_execs_and_lives_leave_nothing(workdir, image_tar):
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="loop-", dir=workdir)))
    eng.start()
    eng.ok("load", "-i", str(image_tar))

    def rounds(lives, execs):
        box = eng.ok("run", "-d", "--network", "none", "busybox", "sleep", "100000")
        many(execs, lambda n: run_exec(eng, box, n))
        eng.ok("rm", "-f", box)
        many(lives, lambda n: life(eng, n))

    rounds(WARM_UP_LIVES, WARM_UP_EXECS)
    before, memory = leaks.settled(eng), memory_kib(eng)
    begin = time.monotonic()
    rounds(LIVES, EXECS)
    took_s = time.monotonic() - begin
    leaks.assert_no_growth(eng, before, ignored=("cgroups",))
    allowed = {"daemon": memory["daemon"] + DAEMON_SLACK_KIB, "keepers": memory["keepers"] + KEEPER_SLACK_KIB}

    def fits():
        now = memory_kib(eng)
        return all(now[k] <= allowed[k] for k in now) and now

    after = wait_for(fits, lambda: f"memory comes back: {memory} KiB before, {memory_kib(eng)} after", 30)
    print(f"{EXECS} execs and {LIVES} lives in {took_s:.1f} s; KiB before {memory}, after {after}")
    eng.stop()
    leaks.assert_nothing_left(eng)
