"""Attach and logs below the CLI: what a raw client sees, byte by byte."""
import json
import os
import socket
import time

import pytest
from engine import wait_for

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


def create(engine, script, **config):
    config = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}} | config
    status, doc = engine.json("POST", "/v1.48/containers/create", config)
    assert status == 201, doc
    return doc["Id"]


def start(engine, cid):
    assert engine.http("POST", f"/v1.48/containers/{cid}/start")[0] == 204


def status_of(engine, cid):
    return engine.json("GET", f"/v1.48/containers/{cid}/json")[1]["State"]["Status"]


def attach(engine, cid, query, timeout=60):
    """The connection after the head of the answer, and that head."""
    sock = engine.connect(timeout)
    lines = [f"POST /v1.48/containers/{cid}/attach?{query} HTTP/1.1", "Host: d", "Content-Length: 0",
             *(f"{k}: {v}" for k, v in UPGRADE.items())]
    sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return sock, head


def read_to_end(sock):
    data = b""
    while block := sock.recv(65536):
        data += block
    return data


def demux(data):
    """The bytes of each stream."""
    streams = {1: b"", 2: b""}
    while data:
        assert data[0] in (1, 2) and data[1:4] == bytes(3), data[:8]
        size = int.from_bytes(data[4:8], "big")
        assert len(data) >= 8 + size
        streams[data[0]] += data[8:8 + size]
        data = data[8 + size:]
    return streams[1], streams[2]


def logs(engine, cid, query):
    status, _, body = engine.http("GET", f"/v1.48/containers/{cid}/logs?{query}")
    assert status == 200, body
    return demux(body)


def test_who_sees_the_end_of_a_stream_finds_the_exit(engine):
    for _ in range(3):
        cid = create(engine, "sleep 0.2; echo x; exit 3")
        start(engine, cid)
        sock, _ = attach(engine, cid, "stream=1&stdout=1")
        assert demux(read_to_end(sock)) == (b"x\n", b"")
        assert status_of(engine, cid) == "exited"
        start(engine, cid)
        assert logs(engine, cid, "stdout=1&follow=1&tail=0") == (b"x\n", b"")
        assert status_of(engine, cid) == "exited"


def test_attach_lasts_until_the_exit_although_the_output_is_closed(engine):
    cid = create(engine, "echo a; exec >&- 2>&-; sleep 1")
    sock, _ = attach(engine, cid, "stream=1&stdout=1&stderr=1")
    start(engine, cid)
    assert demux(read_to_end(sock)) == (b"a\n", b"")
    assert status_of(engine, cid) == "exited"


def test_attach_sends_the_log_before_the_container_starts_again(engine):
    cid = create(engine, "echo old; echo bad >&2")
    start(engine, cid)
    engine.ok("wait", cid)
    sock, _ = attach(engine, cid, "logs=1&stream=1&stdout=1&stderr=1")
    got = b""
    while len(got) < 8 + 4 + 8 + 4:
        got += sock.recv(100)
    assert demux(got) == (b"old\n", b"bad\n")
    start(engine, cid)
    assert demux(read_to_end(sock)) == (b"old\n", b"bad\n")


@pytest.mark.gantry  # dockerd leaves such a connection open and sends nothing, also not the end
def test_attach_goes_on_where_there_is_no_log_to_send(engine):
    cid = create(engine, "echo a; sleep 1; echo b", HostConfig={"NetworkMode": "none", "LogConfig": {"Type": "none"}})
    start(engine, cid)
    time.sleep(0.3)
    sock, _ = attach(engine, cid, "logs=1&stream=1&stdout=1")
    assert demux(read_to_end(sock)) == (b"b\n", b"")


def test_attach_to_no_stream_ends_at_once(engine):
    cid = create(engine, "sleep 600")
    start(engine, cid)
    for query in ("stream=1", "stdout=1", "stream=1&stdin=1"):  # it has no stdin to attach to
        sock, head = attach(engine, cid, query, timeout=10)
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert read_to_end(sock) == b""
    assert status_of(engine, cid) == "running"


@pytest.mark.parametrize("query,status,text", [
    ("stream=1&stdout=1&detachKeys=abc", 400, "Invalid detach keys (abc) provided"),
    ("detachKeys=ctrl-A", 400, "Invalid detach keys (ctrl-A) provided"),
    ("stream=1&stdout=1", 404, "No such container: nosuch"),
])
def test_attach_refusals_are_plain_text(engine, query, status, text):
    got, headers, body = engine.http("POST", f"/v1.48/containers/nosuch/attach?{query}", headers=UPGRADE)
    assert (got, body) == (status, text.encode() + b"\r\n")
    assert headers["content-type"] == "application/vnd.docker.raw-stream"


def test_key_that_breaks_the_detach_sequence_does_not_begin_it(engine):
    cid = create(engine, "stty raw -echo; echo up; head -c 3 | od -An -tx1", Tty=True, OpenStdin=True)
    start(engine, cid)
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1&logs=1")
    while b"up" not in sock.recv(100):
        pass
    for key in b"\x10\x10\x11":
        sock.sendall(bytes([key]))
    assert b"10 10 11" in read_to_end(sock)


@pytest.mark.parametrize("value,message", [
    ("abc", 'strconv.ParseInt: parsing "abc": invalid syntax'),
    ("1.abc", 'strconv.ParseInt: parsing "abc": invalid syntax'),
    ("2020-01-01", 'strconv.ParseInt: parsing "2020-01-01": invalid syntax'),
    ("99999999999999999999", 'strconv.ParseInt: parsing "99999999999999999999": value out of range'),
])
def test_since_that_is_no_number(engine, value, message):
    cid = create(engine, "true")
    for name in ("since", "until"):
        status, doc = engine.json("GET", f"/v1.48/containers/{cid}/logs?stdout=1&{name}={value}")
        assert status in (400, 500) and doc == {"message": message}  # dockerd: 500


def test_since_and_until_are_numbers_of_any_size(engine):
    cid = create(engine, "echo a")
    start(engine, cid)
    engine.ok("wait", cid)
    for query, want in (("since=-1", b"a\n"), ("since=99999999999", b""), ("since=1.1234567890", b"a\n"),
                        ("until=-5.5", b""), ("until=99999999999", b"a\n"), ("since=%2B5", b"a\n")):
        assert logs(engine, cid, "stdout=1&" + query) == (want, b""), query


def test_half_closed_client_still_gets_the_output(engine):
    cid = create(engine, "cat; echo end", OpenStdin=True, StdinOnce=True)
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1")
    start(engine, cid)
    sock.sendall(b"in\n")
    sock.shutdown(socket.SHUT_WR)
    assert demux(read_to_end(sock)) == (b"in\nend\n", b"")


def test_client_that_ends_its_input_before_the_start_gets_the_output(engine):
    for _ in range(10):
        cid = create(engine, "echo x")
        sock, _ = attach(engine, cid, "stream=1&stdout=1")
        sock.shutdown(socket.SHUT_WR)
        start(engine, cid)
        assert demux(read_to_end(sock)) == (b"x\n", b"")


def test_input_that_ends_while_the_container_is_slow_arrives_whole(engine):
    cid = create(engine, "sleep 0.5; wc -c", OpenStdin=True, StdinOnce=True)
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1")
    start(engine, cid)
    sock.sendall(bytes(300_000))
    sock.shutdown(socket.SHUT_WR)
    assert demux(read_to_end(sock)) == (b"300000\n", b"")


def run_to_end(engine, script, log=None, **config):
    host = {"NetworkMode": "none"} | ({"LogConfig": log} if log else {})
    cid = create(engine, script, HostConfig=host, **config)
    start(engine, cid)
    engine.ok("wait", cid)
    return cid


def json_log(**options):
    return {"Type": "json-file", "Config": {k.replace("_", "-"): v for k, v in options.items()}}


@pytest.mark.gantry  # reads files where the engine keeps them
def test_log_files_are_rotated_as_dockers(engine):
    script = "for i in $(seq 20); do echo line$i; usleep 10000; done"
    cid = run_to_end(engine, script, json_log(max_size="300", max_file="3"))
    path = engine.inspect(cid)["LogPath"]
    texts = []
    for suffix in (".2", ".1", ""):
        with open(path + suffix) as f:
            texts.append([json.loads(line)["log"] for line in f])
    assert texts == [[f"line{i}\n" for i in r] for r in (range(9, 13), range(13, 17), range(17, 21))]
    assert not os.path.exists(path + ".3")
    assert logs(engine, cid, "stdout=1")[0] == b"".join(b"line%d\n" % i for i in range(9, 21))
    assert logs(engine, cid, "stdout=1&tail=6")[0] == b"".join(b"line%d\n" % i for i in range(15, 21))


@pytest.mark.gantry
def test_rotation_bounds_what_a_burst_leaves(engine):
    cid = run_to_end(engine, "seq 50000", json_log(max_size="100k", max_file="2"))
    path = engine.inspect(cid)["LogPath"]
    sizes = [os.path.getsize(path + s) for s in ("", ".1")]
    assert sum(sizes) < 210_000, sizes
    assert logs(engine, cid, "stdout=1")[0].endswith(b"49999\n50000\n")


@pytest.mark.gantry  # dockerd skips what it rotates away meanwhile
def test_follow_across_rotations_loses_nothing(engine):
    script = "for i in $(seq 400); do echo line$i; [ $((i % 20)) = 0 ] && usleep 20000; done; true"
    cid = create(engine, script, HostConfig={"NetworkMode": "none", "LogConfig": json_log(max_size="1k", max_file="2")})
    start(engine, cid)
    out, _ = logs(engine, cid, "stdout=1&follow=1")
    got = [int(x.removeprefix(b"line")) for x in out.split()]
    assert got == list(range(got[0], 401))


def test_attributes_of_records(engine):
    cid = run_to_end(engine, "echo a", json_log(labels="l1,no", env="E1", tag="{{.ImageName}}/{{.Name}}"),
                     Labels={"l1": "v<2>"}, Env=["E1=x y", "E2=z"])
    name = engine.inspect(cid)["Name"].removeprefix("/")
    out, _ = logs(engine, cid, "stdout=1&details=1")
    assert out == f"E1=x+y,l1=v%3C2%3E,tag=busybox%2F{name} a\n".encode()


def test_local_driver_can_be_read(engine):
    cid = run_to_end(engine, "echo out; echo err >&2; printf part", {"Type": "local", "Config": {"max-size": "5m"}})
    assert logs(engine, cid, "stdout=1&stderr=1") == (b"out\npart", b"err\n")
    assert engine.inspect(cid)["LogPath"] == ""
    assert engine.inspect(cid)["HostConfig"]["LogConfig"] == {"Type": "local", "Config": {"max-size": "5m"}}


@pytest.mark.gantry
@pytest.mark.parametrize("options,status,message", [
    ({"compress": "true"}, 400, "compress cannot be true when max-file is less than 2 or max-size is not set"),
    ({"tag": "{{nosuch .ID}}"}, 400, 'template: log-tag:1: function "nosuch" not defined'),
    ({"max-size": "10x"}, 400, "invalid suffix: 'x'"),
    ({"max-file": "0"}, 400, "max-file cannot be less than 1"),
])
def test_log_options_that_are_refused(engine, options, status, message):
    config = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "json-file", "Config": options}}}
    assert engine.json("POST", "/v1.48/containers/create", config) == (status, {"message": message})


def test_max_file_alone_is_allowed(engine):
    cid = run_to_end(engine, "echo a", json_log(max_file="3"))
    assert logs(engine, cid, "stdout=1") == (b"a\n", b"")


def written_bytes(engine, cid):
    with open(f"/proc/{engine.inspect(cid)['State']['Pid']}/io") as f:
        return int(f.read().split("wchar: ")[1].split()[0])


def memory_mib(engine):
    with open(f"/proc/{engine.pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss:")) // 1024


@pytest.mark.gantry
def test_slow_and_vanished_clients_hold_up_nobody_else(engine):
    log = json_log(max_size="1m", max_file="2")
    ids = [create(engine, "exec yes 0123456789", HostConfig={"NetworkMode": "none", "LogConfig": log}) for _ in range(3)]
    for cid in ids:
        start(engine, cid)
    before = memory_mib(engine)
    # It reads no log at all, and its container goes on; rotation removes what it has not read.
    follower = engine.connect()
    follower.sendall(f"GET /v1.48/containers/{ids[0]}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    # A stalled attach stops its own container, as with dockerd.
    stalled, _ = attach(engine, ids[1], "stream=1&stdout=1")

    def goes_on(cid, enough=2_000_000):
        start_bytes = written_bytes(engine, cid)
        wait_for(lambda: written_bytes(engine, cid) - start_bytes > enough, "it goes on printing", 60)

    def stands():
        first = written_bytes(engine, ids[1])
        time.sleep(0.3)
        return written_bytes(engine, ids[1]) == first
    wait_for(stands, "the container of a stalled client stands", 60)
    goes_on(ids[0])
    goes_on(ids[2])
    stalled.close()
    goes_on(ids[1])
    assert memory_mib(engine) < before + 40
    follower.close()
