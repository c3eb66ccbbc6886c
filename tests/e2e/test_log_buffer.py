"""`mode=non-blocking`: a container never waits for its log, and what its buffer does not take is said, exactly."""
import errno
import glob
import os
import pathlib
import re
import subprocess
import time

import pytest
from engine import wait_for
from test_log_faults import PAD, SCRIPT, apart, printed, prints  # noqa: F401
from test_streams import create, json_log, logs, start

pytestmark = pytest.mark.gantry
DROPPED = re.compile(rb"\[gantry: (\d+) bytes of output in (\d+) records are missing here: the buffer of mode=non-blocking was full\]")
FAILED = re.compile(rb"\[gantry: (\d+) bytes of output in (\d+) records are missing here: the log could not be written")
BUFFER = "256k"
HANGS = -errno.EIO


def prepare(engine, driver, script=SCRIPT, **options):
    options = {"mode": "non-blocking", "max-buffer-size": BUFFER} | options
    if driver == "fluentd":
        options |= {"fluentd-async": "true", "fluentd-address": "127.0.0.1:9"}
    log = {"Type": driver, "Config": options}
    return create(engine, script, HostConfig={"NetworkMode": "none", "LogConfig": log})


def counted(engine):
    output = engine.debug()["output"]
    return output["dropped_records"], output["dropped_bytes"]


def missing(engine, cid):
    """What the log of an ended container lacks, as it is and as it says: (records, bytes); and the number of gaps."""
    out, err = logs(engine, cid, "stdout=1&stderr=1")
    records, size, expected = 0, 0, 0
    for line in out.splitlines():
        word, number = line.split()[0], int(line.split()[1])
        assert word in (b"line", b"end") and number >= expected, (line, expected)
        assert word == b"end" or line == b"line %d %s" % (number, PAD.encode()), line
        records += number - expected
        size += sum(len(f"line {n} {PAD}\n") for n in range(expected, number))
        expected = number + 1
    assert out.splitlines()[-1].startswith(b"end "), out[-100:]
    said = [(int(n), int(b)) for b, n in DROPPED.findall(err)]
    return (records, size), tuple(map(sum, zip(*said))) if said else (0, 0), len(said)


def stop(engine, cid):
    engine.ok("stop", "-t", "60", cid)
    assert engine.inspect(cid)["State"]["ExitCode"] == 7


def spills(engine):
    return glob.glob(f"{engine.exec_root}/spill-*")


@pytest.mark.parametrize("driver", ["json-file", "local", "fluentd"])
def test_a_log_that_hangs_holds_nobody_up(apart, tmp_path, driver):  # noqa: F811
    cid = prepare(apart, driver)
    other = create(apart, "while :; do echo other; usleep 10000; done")
    with apart.failing(cid, "json-file" if driver == "json-file" else "local", tmp_path) as fail:
        before = counted(apart)
        start(apart, cid)
        start(apart, other)
        prints(apart, cid)
        for _ in range(2):
            fail(write=HANGS)
            prints(apart, cid, 3000)
            # Its clients have its output, and others their logs.
            with apart.popen("attach", "--no-stdin", "--sig-proxy=false", cid, stdout=subprocess.PIPE) as client:
                assert any(line.startswith(b"line ") for line in (client.stdout.readline() for _ in range(3)))
                client.terminate()
            lines = len(logs(apart, other, "stdout=1")[0])
            wait_for(lambda: len(logs(apart, other, "stdout=1")[0]) > lines, "the other log grows", 20)
            fail()
            prints(apart, cid, 200)
        stop(apart, cid)
        really, said, gaps = missing(apart, cid)
        # Told once, if the buffer was never empty between the two.
        assert really == said and really[0] > 1000 and gaps >= 1
        after = counted(apart)
        assert (after[0] - before[0], after[1] - before[1]) == said
    apart.cli("rm", "-f", other)
    assert not spills(apart)


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_kills_lose_nothing_more_than_is_said(apart, tmp_path, driver):  # noqa: F811
    cid = prepare(apart, driver)
    with apart.failing(cid, driver, tmp_path) as fail:
        start(apart, cid)
        prints(apart, cid)
        for hangs in (False, True, True):
            if hangs:
                fail(write=HANGS)
                prints(apart, cid, 3000)
            apart.process.kill()
            fail()  # a process whose write hangs does not end
            apart.process.wait(60)
            time.sleep(0.3)  # the keeper reads meanwhile
            apart.start()
            prints(apart, cid, 200)
        stop(apart, cid)
        really, said, gaps = missing(apart, cid)
        assert really == said and really[0] > 1000 and gaps >= 2
    assert not spills(apart)


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_an_end_does_not_wait_for_its_log(apart, tmp_path, driver):  # noqa: F811
    cid = prepare(apart, driver)
    with apart.failing(cid, driver, tmp_path) as fail:
        start(apart, cid)
        prints(apart, cid)
        fail(write=HANGS)
        prints(apart, cid, 50)
        begun = time.monotonic()
        stop(apart, cid)
        assert time.monotonic() - begun < 30
        fail()
        wait_for(lambda: b"end " in logs(apart, cid, "stdout=1")[0], "the rest is written", 20)
        really, said, _ = missing(apart, cid)
        assert really == said == (0, 0)


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_nothing_is_dropped_that_fits(engine, driver):
    """Rotated and compressed by other threads, read meanwhile."""
    count = 60_000
    options = {"max-size": "500k", "max-file": "100", "compress": "true", "max-buffer-size": "64m"}
    script = f"seq {count} | sed 's/^/line /'; seq 10 | sed 's/^/late /' >&2; printf rest"
    before = counted(engine)
    cid = prepare(engine, driver, script, **options)
    start(engine, cid)
    for _ in range(5):
        out, _ = logs(engine, cid, "stdout=1")
        assert out == b"".join(b"line %d\n" % n for n in range(1, out.count(b"\n") + 1)) + (b"rest" if out.endswith(b"rest") else b"")
    follower = engine.ok("logs", "-f", "--tail", "1", cid)
    assert follower.endswith("rest")
    out, err = logs(engine, cid, "stdout=1&stderr=1")
    assert out == b"".join(b"line %d\n" % n for n in range(1, count + 1)) + b"rest"
    assert err == b"".join(b"late %d\n" % n for n in range(1, 11))
    assert counted(engine) == before


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_loss_is_said_without_more_output(apart, tmp_path, driver, ended):  # noqa: F811
    """Of a log that is waited for, too."""
    script = "echo a; while [ ! -e /go ]; do usleep 10000; done; echo bcd; echo ef" + ("" if ended else "; sleep 1000")
    cid = create(apart, script, HostConfig={"NetworkMode": "none", "LogConfig": json_log() | {"Type": driver}})
    with apart.failing(cid, driver, tmp_path) as fail:
        start(apart, cid)
        wait_for(lambda: logs(apart, cid, "stdout=1")[0] == b"a\n", "output")
        fail(write=errno.ENOSPC)
        losses = apart.debug()["logs"]["lost_bytes"]
        pathlib.Path(f"/proc/{apart.inspect(cid)['State']['Pid']}/root/go").touch()
        wait_for(lambda: apart.debug()["logs"]["lost_bytes"] == losses + 7, "the loss is counted", 20)
        if ended:
            apart.ok("wait", cid)
            time.sleep(1.5)
        fail()
        said = wait_for(lambda: FAILED.findall(logs(apart, cid, "stdout=1&stderr=1")[1]), "it is said", 20)
        assert sum(int(b) for b, _ in said) == 7 and sum(int(n) for _, n in said) == 2
        time.sleep(2)
        assert FAILED.findall(logs(apart, cid, "stdout=1&stderr=1")[1]) == said
        # And no more after the next start.
        if ended:
            start(apart, cid)
            wait_for(lambda: logs(apart, cid, "stdout=1")[0].count(b"a\n") == 2, "the next run", 20)
            assert FAILED.findall(logs(apart, cid, "stdout=1&stderr=1")[1]) == said
