"""attach/ws: the handshake, frames byte by byte, and real clients."""
import os
import pathlib
import socket
import tempfile

import pytest
import wsclient
from engine import Daemon, wait_for
from test_streams import create, start, status_of
from wsclient import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

import leaks

ALL = "stream=1&stdin=1&stdout=1&stderr=1"
NORMAL_END = (0x80 | CLOSE, b"\x03\xe8")
PROTOCOL_ERROR = (0x80 | CLOSE, b"\x03\xea")


def ws(engine, cid, query=ALL, version="/v1.48", **kw):
    client = wsclient.Client(engine, f"{version}/containers/{cid}/attach/ws?{query}", **kw)
    assert client.status == 101, client.head
    return client


def cat(engine, **config):
    cid = create(engine, "exec cat", OpenStdin=True, **config)
    start(engine, cid)
    return cid


def test_handshake(engine):
    cid = cat(engine)
    with ws(engine, cid) as client:
        lines = client.head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        accept = wsclient.accept_of("MDEyMzQ1Njc4OWFiY2RlZg==").encode()
        assert sorted(lines[1:]) == [b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept, b"Upgrade: websocket"]
    # Neither an origin nor an extension is looked at; one subprotocol is taken.
    for header, want in (({"Origin": "http://elsewhere"}, b"Accept"), ({"Origin": ":::"}, b"Accept"),
                         ({"Sec_WebSocket_Extensions": "permessage-deflate"}, b"Accept"),
                         ({"Sec_WebSocket_Protocol": "chat"}, b"Sec-WebSocket-Protocol: chat"),
                         ({"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket"}, b"Accept")):
        with ws(engine, cid, **header) as client:
            assert want in client.head and b"Extensions" not in client.head


@pytest.mark.parametrize("headers,text", [
    ({"Upgrade": None, "Connection": None}, b"not websocket protocol"),
    ({"Upgrade": "tcp"}, b"not websocket protocol"),
    ({"Sec_WebSocket_Key": None}, b"mismatch challenge/response"),
    ({"Sec_WebSocket_Version": "8"}, b"missing or bad WebSocket Version"),
    ({"Sec_WebSocket_Version": None}, b"missing or bad WebSocket Version"),
    ({"Sec_WebSocket_Protocol": "a, b"}, b""),
])
def test_handshakes_that_are_refused(engine, headers, text):
    cid = cat(engine)
    with wsclient.Client(engine, f"/v1.48/containers/{cid}/attach/ws?{ALL}", **headers) as client:
        assert client.status == 400
        assert client.rest() == text
        assert (b"sec-websocket-version: 13" in client.head.lower()) == (b"Version" in text)


def test_errors_before_the_handshake(engine):
    cid = cat(engine)
    get = f"/v1.48/containers/{cid}/attach/ws"
    assert engine.json("GET", "/v1.48/containers/none/attach/ws") == (404, {"message": "No such container: none"})
    assert engine.json("GET", f"{get}?detachKeys=bad-one") == (
        400, {"message": "Invalid detach keys (bad-one) provided"})
    assert engine.http("POST", get)[0] == 404
    engine.ok("pause", cid)
    status, doc = engine.json("GET", get)
    engine.ok("unpause", cid)
    assert (status, doc["message"]) == (409, f"container {cid} is paused, unpause the container before attach")


def test_input_in_any_form_is_output_in_binary_messages(engine):
    cid = cat(engine)
    key_stroke = frame(BINARY, b"early\n")
    with ws(engine, cid, early=key_stroke) as client:  # behind the handshake, in one segment with it
        assert client.next() == (0x80 | BINARY, b"early\n")
        client.send(TEXT, b"te\xffxt\n")
        assert client.next() == (0x80 | BINARY, b"te\xffxt\n")
        client.sock.sendall(frame(BINARY, b"he", fin=False) + frame(CONTINUATION, b"", fin=False)
                            + frame(PING, b"between") + frame(CONTINUATION, b"llo\n"))
        seen = [client.next()]
        while b"".join(data for first, data in seen if first & 15 == BINARY) != b"hello\n":
            seen.append(client.next())
        if (0x80 | PONG, b"between") not in seen:
            seen.append(client.next())
        assert (0x80 | PONG, b"between") in seen
        client.send(PONG, b"unasked")
        client.send(BINARY, b"")
        client.send(PING, b"x" * 125)
        assert client.next() == (0x80 | PONG, b"x" * 125)
        client.send(CLOSE, b"\x03\xe8bye")
        assert client.next() == NORMAL_END
        assert client.next() is None
    assert status_of(engine, cid) == "running"


@pytest.mark.parametrize("version,query,opcode", [("/v1.27", "stream=1", TEXT), ("/v1.41", "stream=1", BINARY)])
def test_older_clients_get_text_and_every_stream(engine, version, query, opcode):
    cid = cat(engine)
    with ws(engine, cid, query, version) as client:
        client.send(BINARY, b"a\n")
        assert client.next() == (0x80 | opcode, b"a\n")


def test_large_messages_both_ways(engine):
    cid = cat(engine)
    data = os.urandom(3_000_000)
    with ws(engine, cid) as client:
        pid = os.fork()
        if pid == 0:
            try:
                client.send(BINARY, data[:2_000_000])
                for at in range(2_000_000, 3_000_000, 50_000):
                    client.send(BINARY, data[at:at + 50_000])
            finally:
                os._exit(0)
        assert client.data(len(data)) == data
        os.waitpid(pid, 0)


def test_both_streams_and_the_end(engine):
    cid = create(engine, "read x; echo out; sleep 0.2; echo err >&2; sleep 0.2; exit 3", OpenStdin=True)
    start(engine, cid)
    with ws(engine, cid) as client, ws(engine, cid, "stream=1&stderr=1") as errors:
        client.send(BINARY, b"\n")
        assert list(client.frames()) == [(0x80 | BINARY, b"out\n"), (0x80 | BINARY, b"err\n"), NORMAL_END]
        assert list(errors.frames()) == [(0x80 | BINARY, b"err\n"), NORMAL_END]


def test_attached_before_the_start(engine):
    cid = create(engine, "echo early")
    with ws(engine, cid) as client:
        start(engine, cid)
        assert list(client.frames()) == [(0x80 | BINARY, b"early\n"), NORMAL_END]


def test_the_log_comes_without_frames_of_its_own(engine):
    cid = create(engine, "echo a; usleep 100000; echo b >&2; usleep 100000; printf part; [ -e /again ] && sleep 600; touch /again")
    start(engine, cid)
    engine.ok("wait", cid)

    def log(query):
        with ws(engine, cid, query) as client:
            *data, last = client.frames()
            assert last == NORMAL_END and {first for first, _ in data} <= {0x80 | BINARY}
            return b"".join(d for _, d in data)
    assert log("logs=1&stdout=1&stderr=1") == b"a\nb\npart"
    assert log("logs=1&stderr=1") == b"b\n"
    assert log("logs=1") == log("") == log("stdout=1") == b""
    start(engine, cid)
    with ws(engine, cid, "logs=1&stream=1&stdout=1") as client:
        assert client.data(len(b"a\nparta\n")) == b"a\nparta\n"  # a line that is not ended is not in the log yet
        engine.ok("kill", cid)
        assert list(client.frames()) == [NORMAL_END]


def test_detach_keys_and_stdin_once(engine):
    cid = cat(engine, Tty=True)
    with ws(engine, cid, "stream=1&stdin=1&stdout=1&detachKeys=a,b") as client:
        client.send(BINARY, b"xa")
        assert client.data(1) == b"x"
        client.send(BINARY, b"b")
        assert list(client.frames()) == [NORMAL_END]
    assert status_of(engine, cid) == "running"
    cid = create(engine, "cat; sleep 0.2; echo after", OpenStdin=True, StdinOnce=True)
    start(engine, cid)
    with ws(engine, cid) as client:
        client.send(BINARY, b"x\n")
        client.send(CLOSE, b"\x03\xe8")
        assert list(client.frames()) == [(0x80 | BINARY, b"x\n"), (0x80 | BINARY, b"after\n"), NORMAL_END]
    assert status_of(engine, cid) == "exited"


@pytest.mark.gantry  # dockerd takes most of these for input, and sends a second close frame
@pytest.mark.parametrize("broken", [
    frame(BINARY, b"x", masked=False), frame(BINARY, b"x", rsv=4), frame(3, b"x"), frame(11, b"x"),
    frame(PING, b"x" * 126), frame(PING, b"x", fin=False), frame(CONTINUATION, b"x"),
    frame(BINARY, b"", fin=False) + frame(BINARY, b"x"), b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
], ids=["unmasked", "rsv1", "opcode3", "opcode11", "ping126", "ping-in-pieces", "continuation", "nested", "length"])
def test_what_breaks_the_protocol_ends_the_connection(engine, broken):
    cid = cat(engine)
    with ws(engine, cid) as client:
        client.sock.sendall(broken)
        assert list(client.frames()) == [PROTOCOL_ERROR]
    assert status_of(engine, cid) == "running"


@pytest.mark.gantry  # dockerd does not read from a client that sends no stdin
def test_without_stdin_a_client_is_listened_to(engine):
    cid = cat(engine)
    with ws(engine, cid, "stream=1&stdout=1") as client:
        client.send(BINARY, b"thrown away\n")
        client.send(PING, b"1")
        assert client.next() == (0x80 | PONG, b"1")
        client.send(CLOSE, b"")
        assert list(client.frames()) == [NORMAL_END]
    assert engine.ok("logs", cid) == ""


@pytest.mark.gantry
def test_a_pong_comes_between_whole_messages_and_a_stalled_client_is_let_go(engine):
    cid = create(engine, "exec yes 0123456789")
    start(engine, cid)
    with ws(engine, cid, "stream=1&stdout=1") as client:
        assert client.next()[0] == 0x80 | BINARY
        client.send(PING, b"p")
        while (got := client.next()) != (0x80 | PONG, b"p"):
            assert got[0] == 0x80 | BINARY  # every frame is whole
        # It reads no more, and wants to go: its frame cannot be answered, so it is cut off.
        client.send(CLOSE, b"\x03\xe8")
    engine.ok("rm", "-f", cid)


def test_websocket_client_of_python(engine):
    websocket = pytest.importorskip("websocket", reason="needs websocket-client")
    cid = cat(engine)
    client = websocket.create_connection(f"ws://d/v1.48/containers/{cid}/attach/ws?{ALL}", socket=engine.connect(),
                                         timeout=60)
    client.send_binary(b"one\n")
    assert client.recv() == b"one\n"
    client.ping(b"still there")
    client.send("two\n")
    assert client.recv() == b"two\n"  # it takes the pong by itself
    if not engine.external:  # dockerd does not wait for the answer to its close frame
        engine.ok("kill", cid)
        assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")
    client.close()


@pytest.mark.gantry
def test_docker_py_by_websocket(workdir, image_tar):
    pytest.importorskip("websocket", reason="needs websocket-client")
    docker = pytest.importorskip("docker")
    with socket.socket() as probe:  # docker-py opens WebSockets over TCP only
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = pathlib.Path(tempfile.mkdtemp(prefix="ws-", dir=workdir))
    engine = Daemon(root, args=["-H", f"tcp://127.0.0.1:{port}", "--tls=false"])
    engine.start()
    try:
        engine.ok("load", "-i", str(image_tar))
        client = docker.DockerClient(base_url=f"tcp://127.0.0.1:{port}", timeout=60)
        box = client.containers.run("busybox", ["cat"], detach=True, stdin_open=True, network_mode="none")
        sock = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1}, ws=True)
        sock.send("hello\n")
        assert sock.recv() == b"hello\n"
        sock.close()
        wait_for(lambda: leaks.debug_numbers(engine)["connections"] <= 2, "the connection ended")
        assert box.attrs["State"]["Status"] in ("created", "running")
        box.remove(force=True)
        client.close()
    finally:
        engine.remove_all()
        engine.stop()
    leaks.assert_nothing_left(engine)
