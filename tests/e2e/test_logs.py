"""Log drivers that write files, and reading them back: docker's CLI and raw HTTP."""
import glob
import gzip
import json
import os
import re
import shutil
import subprocess
import time

import pytest
from engine import External, wait_for
from test_streams import create, demux, logs, start

FULL = os.environ.get("GANTRY_FULL") == "1"


def run(engine, script, driver="json-file", opts=None, wait=True, **config):
    host = {"NetworkMode": "none", "LogConfig": {"Type": driver, "Config": opts or {}}}
    cid = create(engine, script, HostConfig=host, **config)
    start(engine, cid)
    if wait:
        engine.ok("wait", cid)
    return cid


def parse_as_docker(path):
    """Records of a json-file and of its rotated files, oldest first, by a strict reader of Docker's format."""
    files = []
    for n in range(100, 0, -1):
        for name, opener in ((f"{path}.{n}", open), (f"{path}.{n}.gz", gzip.open)):
            if os.path.exists(name):
                with opener(name, "rb") as f:
                    files.append(f.read())
    with open(path, "rb") as f:
        files.append(f.read())
    records = []
    for text in files:
        assert text.endswith(b"\n") or not text
        for line in text.splitlines():
            record = json.loads(line)
            assert set(record) <= {"log", "stream", "time", "attrs"} and record["stream"] in ("stdout", "stderr"), record
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", record["time"]), record
            records.append(record)
    return records


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_every_way_to_read(engine, driver):
    cid = run(engine, "for i in 1 2 3 4; do echo out$i; echo err$i >&2; usleep 20000; done; printf end", driver)
    assert logs(engine, cid, "stdout=1&stderr=1") == (b"out1\nout2\nout3\nout4\nend", b"err1\nerr2\nerr3\nerr4\n")
    assert logs(engine, cid, "stderr=1") == (b"", b"err1\nerr2\nerr3\nerr4\n")
    assert logs(engine, cid, "stdout=1&stderr=1&tail=2")[0].endswith(b"end")
    assert logs(engine, cid, "stdout=1&stderr=1&tail=0") == (b"", b"")
    assert logs(engine, cid, "stdout=1&stderr=1&tail=all")[1] == b"err1\nerr2\nerr3\nerr4\n"
    out, err = logs(engine, cid, "stdout=1&stderr=1&timestamps=1")
    times = sorted(line.split()[0].decode() for line in (out + b"\n" + err).splitlines())
    assert len(times) == 9 and all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", t) for t in times)
    # The CLI takes times as they are shown; since is not before, until is not after.
    for flag, keep in (("--since", times[4:]), ("--until", times[:5])):
        done = engine.cli("logs", "-t", flag, times[4], cid)
        got = {line.split()[0] for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()}
        assert got == set(keep), flag


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_how_many_lines_a_tail_is(engine, driver):
    """What a text stands for was asked of dockerd 28.5."""
    cid = run(engine, "for i in 1 2 3 4 5; do echo $i; done", driver)
    for count, texts in (
        (5, ("", "all", "-1", "-5", "abc", "1e3", "3.5", "%203", "0x3", "99999999999999999999", "1000", "5")),
        (3, ("3", "%2B3", "03")),
        (0, ("0", "-0", "00")),
    ):
        for text in texts:
            out, _ = logs(engine, cid, f"stdout=1&stderr=1&tail={text}")
            assert out.decode().split() == ["1", "2", "3", "4", "5"][5 - count:], text


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_terminal_is_raw(engine, driver):
    cid = run(engine, "echo a; echo b >&2", driver, Tty=True)
    status, headers, body = engine.http("GET", f"/v1.48/containers/{cid}/logs?stdout=1&stderr=1")
    assert (status, body) == (200, b"a\r\nb\r\n")


@pytest.mark.gantry
def test_rotated_files_are_compressed_as_dockers(engine):
    script = "for i in $(seq 400); do echo line$i; [ $((i % 50)) = 0 ] && usleep 50000; done; sleep 2"
    cid = run(engine, script, opts={"max-size": "4k", "max-file": "5", "compress": "true"}, wait=False)
    path = engine.inspect(cid)["LogPath"]
    wait_for(lambda: all(os.path.exists(f"{path}.{n}.gz") for n in range(1, 5)), "four files are compressed")
    engine.ok("wait", cid)
    # gzip itself takes them, and they say when they end.
    with open(f"{path}.1.gz", "rb") as f:
        head = f.read(200)
    note = json.loads(head[12:12 + int.from_bytes(head[10:12], "little")])
    records = parse_as_docker(path)
    assert note["lastTime"] in [r["time"] for r in records]
    texts = [r["log"] for r in records]
    first = int(texts[0][4:])
    assert texts == [f"line{i}\n" for i in range(first, 401)] and first > 1
    assert logs(engine, cid, "stdout=1")[0] == "".join(texts).encode()
    assert logs(engine, cid, "stdout=1&tail=250")[0] == "".join(texts[-250:]).encode()


@pytest.mark.gantry
def test_what_is_written_is_dockers_format(engine):
    script = r"""printf 'a<b>&"\\\t\001\n\303\251\n'; head -c 40000 /dev/zero | tr '\0' x; echo; echo e >&2; printf rest"""
    cid = run(engine, script, opts={"labels-regex": "^l", "env": "E", "tag": "{{.Name | upper}}"},
              Labels={"l1": "1", "l2": "2", "m": "3"}, Env=["E=5"])
    records = parse_as_docker(engine.inspect(cid)["LogPath"])
    tag = engine.inspect(cid)["Name"][1:].upper()
    assert all(r["attrs"] == {"E": "5", "l1": "1", "l2": "2", "tag": tag} for r in records)
    out = [r for r in records if r["stream"] == "stdout"]
    assert [r["log"] for r in out] == ["a<b>&\"\\\t\x01\n", "é\n", "x" * 16384, "x" * 16384, "x" * 7232 + "\n", "rest"]
    # Parts of a line have one time.
    assert len({r["time"] for r in out[2:5]}) == 1


@pytest.mark.gantry
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_log_goes_on_after_a_restart_of_the_container(engine, driver):
    cid = run(engine, "echo again", driver)
    start(engine, cid)
    engine.ok("wait", cid)
    assert logs(engine, cid, "stdout=1") == (b"again\nagain\n", b"")


@pytest.mark.gantry
def test_local_keeps_frames_as_they_go_on_the_wire(engine):
    cid = run(engine, "seq 1000; echo e >&2; printf end", "local")
    directory = engine.data_root / "containers" / cid / "local-logs"
    assert sorted(os.listdir(directory)) == ["container.00000001", "container.00000001.idx"]
    with open(directory / "container.00000001", "rb") as f:
        body = f.read()
    assert engine.http("GET", f"/v1.48/containers/{cid}/logs?stdout=1&stderr=1")[2] == body
    assert demux(body) == ("".join(f"{i}\n" for i in range(1, 1001)).encode() + b"end", b"e\n")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_follower_ends_when_the_container_is_removed(engine, driver):
    cid = run(engine, "echo a; sleep 1000", driver, wait=False)
    follower = engine.popen("logs", "-f", cid, stdout=subprocess.PIPE)
    assert follower.stdout.readline() == b"a\n"
    engine.ok("rm", "-f", cid)
    assert follower.wait(30) == 0
    follower.stdout.close()


@pytest.mark.gantry
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_lines_are_seen_once_through_rotations_and_kills(private_daemon, driver):
    """Who follows, comes back with since, and leaves out the times it knows, sees each line once."""
    engine, (kills, lines) = private_daemon, (20, 200_000) if FULL else (4, 20_000)
    script = f"for i in $(seq {lines}); do echo $i; [ $((i % 100)) = 0 ] && usleep {kills * 5_000_000 // (lines // 100) // 4}; done; true"
    cid = run(engine, script, driver, {"max-size": "20k", "max-file": "50", "compress": "true"}, wait=False)
    seen, last = {}, "0"
    for _ in range(kills + 1):
        sock = engine.connect(60)
        since = f"&since={last}" if last != "0" else ""
        sock.sendall(f"GET /v1.48/containers/{cid}/logs?stdout=1&timestamps=1&follow=1{since} HTTP/1.0\r\n\r\n".encode())
        sock.settimeout(1.5 if _ < kills else 60)
        data = b""
        try:
            while block := sock.recv(1 << 16):
                data += block
        except TimeoutError:
            pass
        sock.close()
        if _ < kills:
            engine.kill9()
            engine.start()
        body = data.split(b"\r\n\r\n", 1)[1]
        while len(body) >= 8 and len(body) >= 8 + int.from_bytes(body[4:8], "big"):
            size = int.from_bytes(body[4:8], "big")
            stamp, text = body[8:8 + size].decode().rstrip("\n").split(" ")
            body = body[8 + size:]
            assert seen.setdefault(stamp, text) == text
            last = stamp
        if last != "0":
            base, frac = last[:19], last[20:29]
            last = f"{int(time.mktime(time.strptime(base, '%Y-%m-%dT%H:%M:%S')) - time.timezone)}.{frac}"
    got = [int(t) for _, t in sorted(seen.items())]
    assert got == list(range(1, lines + 1)), (len(got), lines)


@pytest.mark.gantry
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_full_disk_is_said_in_the_log(engine, driver, tmp_path):
    """The container runs on, what was lost stands in the log as soon as it takes more."""
    cid = create(engine, "echo begin; read a; seq 100000; read b; echo end; read c; true",
                 HostConfig={"NetworkMode": "none", "LogConfig": {"Type": driver, "Config": {}}}, OpenStdin=True)
    directory = str(engine.data_root / "containers" / cid)
    os.makedirs(directory, 0o710, exist_ok=True)
    where = os.path.join(directory, "local-logs")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=64", "tmpfs", str(small)], check=True)
    try:
        if driver == "local":
            os.symlink(small, where)
        else:
            os.symlink(small / "log", os.path.join(directory, f"{cid}-json.log"))
        sock = engine.connect(60)
        sock.sendall(f"POST /v1.48/containers/{cid}/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: d\r\n"
                     "Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        sock.recv(4096)
        start(engine, cid)
        ballast = small / "ballast"
        wait_for(lambda: logs(engine, cid, "stdout=1")[0] == b"begin\n", "the first line")
        with open(ballast, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass
        sock.sendall(b"\n")
        time.sleep(3)
        assert engine.inspect(cid)["State"]["Running"]
        os.remove(ballast)
        sock.sendall(b"\n")
        wait_for(lambda: logs(engine, cid, "stdout=1")[0].endswith(b"end\n"), "the last line")
        out, err = logs(engine, cid, "stdout=1&stderr=1")
        gap = re.fullmatch(rb"\[gantry: (\d+) bytes of output in (\d+) records are missing here: "
                           rb"the log could not be written \(No space left on device\)\]\n", err)
        assert gap, err[:500]
        printed = len("begin\nend\n") + sum(len(f"{i}\n") for i in range(1, 100001))
        assert int(gap[1]) == printed - len(out) and int(gap[2]) == 100002 - out.count(b"\n")
        counted = engine.debug()["logs"]
        assert counted["losses"] >= 1 and counted["lost_bytes"] >= int(gap[1]), counted
        # Who reads stdout only is told too.
        assert b"[gantry: " in logs(engine, cid, "stdout=1")[0]
        sock.sendall(b"\n")
        engine.ok("wait", cid)
        sock.close()
    finally:
        engine.ok("rm", "-f", cid)
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.gantry
def test_the_daemons_own_log_options(private_daemon):
    config = {"log-driver": "local", "log-opts": {"max-size": "5m", "max-file": "3"}}
    engine = private_daemon
    engine.stop()
    file = engine.workdir / "daemon.json"
    file.write_text(json.dumps(config))
    engine.args = [*engine.args, "--config-file", str(file)]
    engine.start()
    assert engine.json("GET", "/v1.48/info")[1]["LoggingDriver"] == "local"
    for given, want in (
        ({}, {"Type": "local", "Config": {"max-file": "3", "max-size": "5m"}}),
        ({"Config": {"max-size": "1m"}}, {"Type": "local", "Config": {"max-file": "3", "max-size": "1m"}}),
        ({"Type": "json-file", "Config": {}}, {"Type": "json-file", "Config": {}}),
    ):
        cid = create(engine, "echo a", HostConfig={"NetworkMode": "none", "LogConfig": given})
        assert engine.inspect(cid)["HostConfig"]["LogConfig"] == want
        start(engine, cid)
        engine.ok("wait", cid)
        assert logs(engine, cid, "stdout=1") == (b"a\n", b"")


@pytest.mark.gantry
@pytest.mark.parametrize("driver,options,message", [
    ("local", {"max-size": "10x"}, "invalid value for max-size: 10x: invalid suffix: 'x'"),
    ("local", {"max-file": "x"}, 'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax'),
    ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
    ("local", {"compress": "x"}, 'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax'),
    ("local", {"labels": "x"}, "unknown log opt 'labels' for log driver local"),
    ("json-file", {"nosuch": "1"}, "unknown log opt 'nosuch' for json-file log driver"),
    ("json-file", {"tag": "{{.ID"}, "template: log-tag:1: unclosed action"),
])
def test_options_that_are_refused_at_create(engine, driver, options, message):
    """dockerd 28.5.2 has the same texts; but for unknown names it says them when the container is started."""
    config = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": driver, "Config": options}}}
    assert engine.json("POST", "/v1.48/containers/create", config) == (400, {"message": message})


TEMPLATE = """{{define "arg"}}<{{.}}>{{end -}}
{{range $i, $a := .ContainerArgs}}{{if $i}},{{end}}{{template "arg" $a}}{{else}}none{{end}} {{printf "%-6s|" .DaemonName}}"""


def test_what_tags_give(engine):
    """Templates have what Go's have; what is wrong with one that depends on its container is said at the start."""
    cid = run(engine, "echo a", opts={"tag": TEMPLATE})
    assert engine.ok("wait", cid) == "0"
    assert engine.cli("logs", "--details", cid).stdout == "tag=%3C-c%3E%2C%3Cecho+a%3E+docker%7C a\n"
    for tag, error in [
        ("{{.Foo}}", "1:2: executing \"log-tag\" at <.Foo>: can't evaluate field Foo in type *logger.Info"),
        ("{{index .ContainerArgs 9}}", "1:2: executing \"log-tag\" at <index .ContainerArgs 9>: "
         "error calling index: index out of range: 9"),
    ]:
        cid = create(engine, "echo a", HostConfig={"LogConfig": {"Type": "json-file", "Config": {"tag": tag}}})
        assert engine.json("POST", f"/v1.48/containers/{cid}/start") == (500, {
            "message": "failed to create task for container: failed to initialize logging driver: template: log-tag:" + error})


@pytest.mark.gantry
def test_bounds_are_also_dates_and_spans(engine):
    cid = run(engine, "echo a; sleep 2; echo b")
    first, second = (line.split()[0].decode() for line in logs(engine, cid, "stdout=1&timestamps=1")[0].splitlines())
    assert logs(engine, cid, f"stdout=1&since={second}") == (b"b\n", b"")
    assert logs(engine, cid, f"stdout=1&until={first}") == (b"a\n", b"")
    assert logs(engine, cid, "stdout=1&since=1h") == (b"a\nb\n", b"")
    assert logs(engine, cid, "stdout=1&until=1h") == (b"", b"")


@pytest.mark.gantry
@pytest.mark.skipif(not os.environ.get("GANTRY_PEER_ROOT"), reason="no dockerd: GANTRY_PEER_HOST and GANTRY_PEER_ROOT (its data root)")
def test_dockerd_reads_what_we_write(engine):
    """Our files in the place of those of a container of dockerd: it answers as we do."""
    peer = External(os.environ["GANTRY_PEER_HOST"], engine.workdir)
    opts = {"max-size": "4k", "max-file": "5", "compress": "true", "tag": "{{.Name}}"}
    script = "for i in $(seq 150); do echo 'line <&>' $i; [ $((i % 25)) = 0 ] && usleep 100000; done; " \
             "head -c 40000 /dev/zero | tr '\\0' x; echo; echo err >&2; sleep 1; printf end"
    ours = run(engine, script, opts=opts)
    path = engine.inspect(ours)["LogPath"]
    theirs = run(peer, "true", opts=opts)
    try:
        there = os.path.join(os.environ["GANTRY_PEER_ROOT"], "containers", theirs, f"{theirs}-json.log")
        os.remove(there)
        files = glob.glob(glob.escape(path) + "*")
        assert path in files and any(f.endswith(".gz") for f in files), files
        for file in files:
            shutil.copy(file, there + file.removeprefix(path))
        for query in ("", "&tail=30", "&timestamps=1", "&details=1", "&since=1"):
            bodies = [e.http("GET", f"/v1.48/containers/{cid}/logs?stdout=1&stderr=1{query}")[2]
                      for e, cid in ((engine, ours), (peer, theirs))]
            assert bodies[0] == bodies[1] and bodies[0].endswith(b"end"), query
    finally:
        peer.ok("rm", "-f", theirs)
