"""Lines longer than Docker's 16 KiB in one record: the option `max-line-size` of json-file and local."""
import glob

import pytest
from engine import wait_for
from test_streams import create, logs, start

pytestmark = pytest.mark.gantry
DRIVERS = ("json-file", "local")


def prepare(engine, driver, script, **options):
    log = {"Type": driver, "Config": {k.replace("_", "-"): v for k, v in options.items()}}
    return create(engine, script, HostConfig={"NetworkMode": "none", "LogConfig": log})


def sizes(engine, cid):
    """Lengths of the frames of the log: one for each record."""
    data, found = engine.http("GET", f"/v1.48/containers/{cid}/logs?stdout=1&stderr=1")[2], []
    while data:
        found.append(int.from_bytes(data[4:8], "big"))
        data = data[8 + found[-1]:]
    return found


def line(letter, count):
    return f"head -c {count} /dev/zero | tr '\\0' {letter}; echo"


@pytest.mark.parametrize("driver", DRIVERS)
def test_long_lines_are_whole_up_to_their_limit(engine, driver):
    script = f"{line('a', 40_000)}; {line('b', 99_999)}; {line('c', 250_000)}; echo short; ({line('d', 30_000)}) >&2"
    cid = prepare(engine, driver, script, max_line_size="100k")
    start(engine, cid)
    engine.ok("wait", cid)
    found = sizes(engine, cid)
    assert found[:2] == [40_001, 100_000]
    assert sorted(found[2:]) == sorted([102_400, 102_400, 250_001 - 204_800, 6, 30_001]), found
    out, err = logs(engine, cid, "stdout=1&stderr=1")
    assert out == b"a" * 40_000 + b"\n" + b"b" * 99_999 + b"\n" + b"c" * 250_000 + b"\nshort\n"
    assert err == b"d" * 30_000 + b"\n"
    # Without the option lines are cut as Docker's.
    cid = prepare(engine, driver, line("a", 40_000))
    start(engine, cid)
    engine.ok("wait", cid)
    assert sizes(engine, cid) == [16_384, 16_384, 40_001 - 32_768]


@pytest.mark.parametrize("mode", ["blocking", "non-blocking"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_unfinished_long_lines_survive_kills(private_daemon, driver, mode):
    eng = private_daemon
    wait = "while [ ! -e /go ]; do usleep 20000; done; rm /go"
    part = "head -c 70000 /dev/zero | tr '\\0' {}"
    script = "; ".join(f"{part.format(letter)}; {part.format(letter.upper())} >&2; echo $((n+=1)) > /at; {wait}"
                       for letter in "abc") + "; echo; echo >&2; exec sleep 1000"
    cid = prepare(eng, driver, script, max_line_size="1m", mode=mode)
    start(eng, cid)
    root = f"/proc/{eng.inspect(cid)['State']['Pid']}/root"
    for n in range(1, 4):
        def printed():
            with open(f"{root}/at") as f:
                return f.read() == f"{n}\n"
        wait_for(lambda: glob.glob(f"{root}/at") and printed(), "it prints")
        eng.kill9()
        if n == 2:
            open(f"{root}/go", "w").close()
            wait_for(lambda: not glob.glob(f"{root}/go"), "it prints without a daemon")
            eng.start()
        else:
            eng.start()
            open(f"{root}/go", "w").close()
    wait_for(lambda: len(sizes(eng, cid)) >= 2, "two lines")
    assert sorted(sizes(eng, cid)) == [210_001, 210_001]
    want = b"".join(bytes([c]) * 70_000 for c in b"abc") + b"\n"
    assert logs(eng, cid, "stdout=1&stderr=1") == (want, want.upper())
    eng.ok("rm", "-f", cid)
    assert not glob.glob(f"{eng.exec_root}/spill-*")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("value", ["16383", "1025k", "x", "-1"])
def test_sizes_that_are_refused(engine, driver, value):
    config = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": driver, "Config": {"max-line-size": value}}}}
    status, doc = engine.json("POST", "/v1.48/containers/create", config)
    assert (status, doc) == (400, {"message": f"max-line-size must be between 16k and 1m: {value}"})


def test_drivers_of_services_have_no_such_option(engine):
    config = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "syslog", "Config": {"max-line-size": "32k"}}}}
    assert engine.json("POST", "/v1.48/containers/create", config)[0] == 400
