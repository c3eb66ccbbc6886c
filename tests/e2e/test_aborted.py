"""Clients that leave in every way there is: nothing of them stays in the daemon, and nobody else notices."""
import contextlib
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import time

import leaks
import pytest
import wsclient
from conftest import FULL
from engine import Daemon, wait_for
from test_loops import DAEMON_SLACK_KIB, KEEPER_SLACK_KIB, many, memory_kib
from test_streams import json_log

pytestmark = pytest.mark.gantry
CLIENTS = 1_000 if FULL else 100
CLI_CLIENTS = 60 if FULL else 9
# How long the daemon may take to see that a client of a container that prints nothing has left.
AT_ONCE_S = 2
QUIET, TERMINAL, LOUD = "quiet", "terminal", "loud"


class Tcp(Daemon):
    """The clients come by TCP or by the unix socket."""

    def __init__(self, root):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        super().__init__(root, args=["-H", f"tcp://127.0.0.1:{self.port}", "--tls=false"])

    def connect_tcp(self):
        return socket.create_connection(("127.0.0.1", self.port), 60)


@pytest.fixture(scope="module")
def daemon(workdir, image_tar):
    eng = Tcp(pathlib.Path(tempfile.mkdtemp(prefix="gone-", dir=workdir)))
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    for name, command, config in (
            (QUIET, "exec sleep 100000", {"OpenStdin": True}), (TERMINAL, "exec cat", {"OpenStdin": True, "Tty": True}),
            (LOUD, "exec yes 0123456789", {"OpenStdin": True})):
        # What is typed at the terminal is not kept: a log that grows and rotates would be taken for a leak.
        log = {"Type": "none"} if name == TERMINAL else json_log(max_size="1m", max_file="2")
        host = {"NetworkMode": "none", "LogConfig": log}
        status, doc = eng.json("POST", f"/v1.48/containers/create?name={name}",
                               {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": host} | config)
        assert status == 201, doc
        assert eng.http("POST", f"/v1.48/containers/{name}/start")[0] == 204
    yield eng
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


def raw(sock, method, path, body=b"", headers=()):
    """Sends a request and reads the head of its answer."""
    lines = [f"{method} /v1.48{path} HTTP/1.1", "Host: d", f"Content-Length: {len(body)}",
             "Content-Type: application/json", *headers]
    sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    assert head.split()[1] in (b"200", b"101"), head


UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
STREAMS = "stream=1&stdin=1&stdout=1&stderr=1"


def attach(eng, sock, box):
    raw(sock, "POST", f"/containers/{box}/attach?{STREAMS}", headers=UPGRADE)


def attach_plain(eng, sock, box):
    raw(sock, "POST", f"/containers/{box}/attach?stream=1&stdout=1")


def follow(eng, sock, box):
    raw(sock, "GET", f"/containers/{box}/logs?follow=1&stdout=1&tail=5")


def events(eng, sock, box):
    raw(sock, "GET", "/events")


def wait(eng, sock, box):
    raw(sock, "POST", f"/containers/{box}/wait?condition=next-exit")


def run_exec(eng, sock, box):
    """It ends by itself: when its stdin does, when it has printed enough, or soon."""
    tty = box == TERMINAL
    command = {TERMINAL: ["sleep", "1"], LOUD: ["head", "-c", "20000000", "/dev/zero"], QUIET: ["cat"]}[box]
    status, doc = eng.json("POST", f"/v1.48/containers/{box}/exec", {
        "Cmd": command, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": tty})
    assert status == 201, doc
    raw(sock, "POST", f"/exec/{doc['Id']}/start", b'{"Detach":false,"Tty":%s}' % (b"true" if tty else b"false"), UPGRADE)


def websocket(eng, sock, box):
    sock.sendall(wsclient.request(f"/v1.48/containers/{box}/attach/ws?{STREAMS}"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert b" 101 " in head


def vanish(sock, kind):
    sock.close()


def half_close(sock, kind):
    sock.shutdown(socket.SHUT_WR)
    time.sleep(0.02)
    sock.close()


def reset(sock, kind):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def stall(sock, kind):
    time.sleep(0.3)
    sock.close()


def detach(sock, kind):
    keys = [wsclient.frame(wsclient.BINARY, b"\x10\x11")] if kind is websocket else [b"\x10", b"\x11"]
    for key in keys:
        sock.sendall(key)
    with contextlib.suppress(ConnectionError):
        while sock.recv(65536):
            pass
    sock.close()


def in_the_middle(sock, kind):
    """Part of a frame, or input that the container does not read."""
    sock.sendall(wsclient.frame(wsclient.BINARY, b"x" * 100)[:50] if kind is websocket else b"x" * 300_000)
    sock.close()


WAYS = [
    (vanish, QUIET, "unix"), (vanish, LOUD, "unix"), (half_close, QUIET, "unix"), (half_close, LOUD, "tcp"),
    (reset, QUIET, "tcp"), (reset, LOUD, "tcp"), (stall, LOUD, "unix"), (stall, LOUD, "tcp"),
    (detach, TERMINAL, "tcp"), (in_the_middle, TERMINAL, "unix"),
]
KINDS = [attach, attach_plain, follow, events, wait, run_exec, websocket]
PAIRS = [(kind, *way) for kind in KINDS for way in WAYS
         if way[0] not in (detach, in_the_middle) or kind in (attach, run_exec, websocket)]


def leave(eng, kind, way, box, by):
    sock = eng.connect() if by == "unix" else eng.connect_tcp()
    try:
        kind(eng, sock, box)
        way(sock, kind)
    except ConnectionError:
        # The daemon was first: a detached client's connection, an exec that ended.
        assert way in (in_the_middle, half_close), (kind, way)
    finally:
        sock.close()


def test_nothing_stays_of_clients_that_leave(daemon):
    many(len(PAIRS), lambda n: leave(daemon, *PAIRS[n]))  # whatever is made on first use, such as workers
    time.sleep(3)
    before, before_kib = leaks.settled(daemon), memory_kib(daemon)
    many(CLIENTS, lambda n: leave(daemon, *PAIRS[n % len(PAIRS)]))
    leaks.assert_no_growth(daemon, before)
    after_kib = memory_kib(daemon)
    assert after_kib["daemon"] - before_kib["daemon"] < DAEMON_SLACK_KIB, (before_kib, after_kib)
    assert after_kib["keepers"] - before_kib["keepers"] < KEEPER_SLACK_KIB, (before_kib, after_kib)
    # The containers are as they were.
    assert sorted(daemon.ok("ps", "--format", "{{.Names}}").split()) == sorted([QUIET, TERMINAL, LOUD])
    sock = daemon.connect()
    attach(daemon, sock, TERMINAL)
    sock.sendall(b"\nstill here\n")
    got = b""
    while b"still here" not in got:
        got += sock.recv(4096)
    sock.close()


def test_nothing_stays_of_killed_clis(daemon):
    commands = [("attach", QUIET), ("logs", "-f", LOUD), ("exec", "-i", QUIET, "cat"), ("attach", LOUD),
                ("events",), ("logs", "-f", QUIET)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    before = leaks.settled(daemon)

    def one(n):
        cli = daemon.popen(*commands[n % len(commands)], **pipes)
        time.sleep(0.3)
        cli.send_signal(signal.SIGKILL)
        cli.wait()
        cli.stdin.close()
        cli.stdout.close()
    many(CLI_CLIENTS, one)
    leaks.assert_no_growth(daemon, before)


@pytest.mark.parametrize("kind,way,by", [
    (kind, way, by) for kind in KINDS for way, by in ((vanish, "unix"), (reset, "tcp"))
], ids=lambda v: getattr(v, "__name__", v))
def test_a_client_that_left_is_noticed_at_once(daemon, kind, way, by):
    """Although the container prints nothing."""
    def sockets():
        return {target for target in leaks.links(daemon.pid) if target.startswith("socket:")}
    before = sockets()
    sock = daemon.connect() if by == "unix" else daemon.connect_tcp()
    kind(daemon, sock, QUIET)
    time.sleep(0.2)
    of_client = sockets() - before
    assert of_client
    way(sock, kind)
    wait_for(lambda: not of_client & sockets(), "the client's connection is closed", AT_ONCE_S)


@pytest.mark.skipif(not FULL, reason="the kernel of a closed client answers for a minute; with GANTRY_FULL=1")
def test_a_tcp_client_that_only_closed_is_found_by_keepalive(daemon):
    """To the daemon a closed client looks like one that has ended its input, until the kernel forgets its connection."""
    before = leaks.settled(daemon)
    for kind in (attach_plain, wait, follow, websocket):
        sock = daemon.connect_tcp()
        kind(daemon, sock, QUIET)
        vanish(sock, kind)
    time.sleep(60)
    leaks.assert_no_growth(daemon, before)
