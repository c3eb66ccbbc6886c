"""Bulk through attach and exec, byte for byte: random bytes by SHA-256, with clients that stall, vanish, half-close.

With GANTRY_FULL=1 the streams are 8 GiB long.
"""
import glob
import hashlib
import os
import socket
import threading
import time

import pytest
from conftest import FULL
from engine import wait_for
from test_streams import attach, create, start, status_of
from test_exec import create as create_exec, ended

BLOCK_BYTES = 8 << 20
BLOCKS = (8 << 30) // BLOCK_BYTES if FULL else 8
RECV_BYTES = 1 << 20
# Longest frame of what the pump reads itself.
RING_BUFFER_BYTES = 32 << 10


class Source:
    """A file of random bytes that containers see as /data/block, and what they print when they print it BLOCKS times.

    Every repetition begins with its number, so that no block can be taken for another one."""

    def __init__(self, path):
        path.mkdir()
        self.block = os.urandom(BLOCK_BYTES)
        (path / "block").write_bytes(self.block)
        self.bind = f"{path}:/data:ro"

    def host(self, log="none"):
        return {"NetworkMode": "none", "Binds": [self.bind], "LogConfig": {"Type": log}}

    def pieces(self, count=BLOCKS):
        for n in range(count):
            yield b"%08d" % n
            yield self.block

    def digest(self, count=BLOCKS):
        return digest(self.pieces(count))


def loop(target, count=BLOCKS):
    """Shell words that print the block `count` times."""
    return f"i=0; while [ $i -lt {count} ]; do printf %08d $i; cat /data/block; i=$((i+1)); done {target}"


def digest(pieces):
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()


@pytest.fixture(scope="module")
def source(workdir):
    return Source(workdir / "bulk")


class Frames:
    """The payloads of a multiplexed stream, hashed as they come. `tail` keeps the last bytes of stdout."""

    def __init__(self, sock, pause=None):
        self.sock, self.pause = sock, pause or (lambda bytes_so_far: None)
        self.sha = {1: hashlib.sha256(), 2: hashlib.sha256()}
        self.bytes = {1: 0, 2: 0}
        self.first = None
        self.longest = 0

    def exactly(self, size):
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            n = self.sock.recv_into(view[got:], min(size - got, RECV_BYTES))
            if n == 0:
                assert got == 0, "the stream ends within a frame"
                return None
            got += n
        return data

    def read(self):
        while (head := self.exactly(8)) is not None:
            assert head[0] in (1, 2) and head[1:4] == bytes(3), head
            size = int.from_bytes(head[4:], "big")
            body = self.exactly(size)
            assert body is not None, "a head without its bytes"
            self.first = self.first or bytes(body[:64])
            self.sha[head[0]].update(body)
            self.bytes[head[0]] += size
            self.longest = max(self.longest, size)
            self.pause(self.bytes[1])
        return self

    def digest(self, stream=1):
        return self.sha[stream].hexdigest()


def raw_digest(sock):
    sha = hashlib.sha256()
    while data := sock.recv(RECV_BYTES):
        sha.update(data)
    return sha.hexdigest()


def feed(sock, source, stall=lambda n: None):
    """Sends what the source prints and ends the input."""
    for n, piece in enumerate(source.pieces()):
        sock.sendall(piece)
        stall(n)
    sock.shutdown(socket.SHUT_WR)


def exec_stream(engine, eid, body=b"{}"):
    """The connection of a started exec, after the head of the answer."""
    sock = engine.connect()
    sock.sendall(b"POST /v1.48/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                 b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n%s" % (eid.encode(), len(body), body))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return sock


def box(engine, source):
    cid = create(engine, "exec sleep 100000", HostConfig=source.host())
    start(engine, cid)
    return cid


# --- out of a container --------------------------------------------------------------------------

@pytest.mark.parametrize("log", ["none", "json-file", "local"])
def test_attached_output(engine, source, log):
    count = BLOCKS if log == "none" else min(BLOCKS, 32)
    before = None if engine.external else engine.debug()["output"]
    cid = create(engine, loop("", count), HostConfig=source.host(log))
    sock, _ = attach(engine, cid, "stream=1&stdout=1&stderr=1", timeout=600)
    start(engine, cid)
    got = Frames(sock).read()
    assert got.bytes == {1: count * (BLOCK_BYTES + 8), 2: 0}
    assert got.digest() == source.digest(count)
    if before:
        after = engine.debug()["output"]
        moved, read = (after[k] - before[k] for k in ("moved_bytes", "read_bytes"))
        assert moved + read == got.bytes[1]
        # What is logged is read; what is not is moved, but for its beginning.
        assert moved > got.bytes[1] // 2 if log == "none" else moved == 0
        assert (got.longest > RING_BUFFER_BYTES) == (log == "none")
        assert after["gap_bytes"] == before["gap_bytes"]


def test_attached_output_of_a_terminal(engine, source):
    cid = create(engine, "stty raw -echo; " + loop("", 2), Tty=True, OpenStdin=True, HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdout=1", timeout=600)
    start(engine, cid)
    assert raw_digest(sock) == source.digest(2)


def test_both_streams_at_once(engine, source):
    cid = create(engine, f"({loop('>&2')}) & {loop('')}; wait", HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdout=1&stderr=1", timeout=600)
    start(engine, cid)
    got = Frames(sock).read()
    assert [got.digest(1), got.digest(2)] == [source.digest()] * 2


def test_lines_between_bulk_keep_their_place(engine, source):
    """The way the bytes take changes many times."""
    script = "n=0; while [ $n -lt 6 ]; do cat /data/block; for i in $(seq 300); do echo line $n $i; done; n=$((n+1)); done"
    cid = create(engine, script, HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdout=1&stderr=1", timeout=600)
    start(engine, cid)
    pieces = [source.block + b"".join(b"line %d %d\n" % (n, i) for i in range(1, 301)) for n in range(6)]
    assert Frames(sock).read().digest() == digest(pieces)


def test_exec_output(engine, source):
    eid = create_exec(engine, box(engine, source), "sh", "-c", loop(""), AttachStdout=True, AttachStderr=True)
    with exec_stream(engine, eid) as sock:
        got = Frames(sock).read()
    assert got.digest() == source.digest()
    assert engine.external or got.longest > RING_BUFFER_BYTES
    assert ended(engine, eid) == 0
    # Raw, as terminals get it.
    eid = create_exec(engine, box(engine, source), "sh", "-c", loop("", 4), AttachStdout=True)
    with exec_stream(engine, eid, b'{"Tty":true}') as sock:
        assert raw_digest(sock) == source.digest(4)


# --- clients of all kinds ------------------------------------------------------------------------

def test_clients_that_stall_vanish_and_half_close(engine, source):
    """Those that stay get every byte, whatever the others do."""
    cid = create(engine, loop(""), HostConfig=source.host())
    socks = [attach(engine, cid, "stream=1&stdout=1", timeout=600)[0] for _ in range(6)]
    total = BLOCKS * (BLOCK_BYTES + 8)
    stalls = iter(range(total // 5, total, total // 5))
    due = [next(stalls)]

    def stall(so_far):
        if so_far > due[0]:
            due[0] = next(stalls, total)
            time.sleep(0.3)

    def vanish(so_far):
        if so_far > total // 3:
            raise InterruptedError

    readers = [Frames(socks[0]), Frames(socks[1], stall), Frames(socks[2]), Frames(socks[3]), Frames(socks[4], vanish)]
    socks[3].shutdown(socket.SHUT_WR)
    failed = []

    def read(reader):
        try:
            reader.read()
        except InterruptedError:
            reader.sock.close()
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=read, args=(r,)) for r in readers]
    for thread in threads:
        thread.start()
    start(engine, cid)
    # The sixth one reads nothing, holds up all, and is gone then.
    time.sleep(0.5)
    assert all(t.is_alive() for t in threads[:4])
    socks[5].close()
    for thread in threads:
        thread.join(3600)
    assert not failed, failed
    assert [r.digest() for r in readers[:4]] == [source.digest()] * 4


def test_client_that_comes_later_sees_the_rest(engine, source):
    cid = create(engine, loop("", 12), HostConfig=source.host())
    first, _ = attach(engine, cid, "stream=1&stdout=1", timeout=600)
    come = threading.Event()

    def pause(so_far):
        if so_far > 3 * BLOCK_BYTES and not come.is_set():
            late.append(attach(engine, cid, "stream=1&stdout=1", timeout=600)[0])
            come.set()

    late = []
    start(engine, cid)
    reader = Frames(first, pause)
    thread = threading.Thread(target=reader.read)
    thread.start()
    assert come.wait(600)
    got = bytearray()
    while (head := Frames(late[0]).exactly(8)) is not None:
        got += Frames(late[0]).exactly(int.from_bytes(head[4:], "big"))
    thread.join(600)
    assert reader.digest() == source.digest(12)
    whole = b"".join(source.pieces(12))
    assert 0 < len(got) < len(whole)
    assert whole.endswith(bytes(got))


def test_stalled_client_holds_a_bounded_amount(engine, source):
    """As with dockerd it stops its container; what it has not taken is limited."""
    cid = create(engine, loop("", 1000), HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdout=1", timeout=600)
    start(engine, cid)

    def printed():
        with open(f"/proc/{engine.inspect(cid)['State']['Pid']}/io") as f:
            fields = dict(line.split(": ") for line in f)
        return sum(int(fields[k]) for k in ("rchar", "wchar"))

    def stands():
        before = printed()
        time.sleep(0.3)
        return printed() == before
    wait_for(stands, "the container stands", 60)
    assert printed() < 64 << 20
    sock.close()
    wait_for(lambda: not stands(), "it goes on without the client", 60)


# --- into a container ----------------------------------------------------------------------------

def test_attached_input(engine, source):
    cid = create(engine, "exec sha256sum", OpenStdin=True, StdinOnce=True, HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1", timeout=600)
    start(engine, cid)
    feed(sock, source)
    data = sock.recv(1000)
    while more := sock.recv(1000):
        data += more
    assert data[8:8 + 64].decode() == source.digest()


def test_input_to_a_terminal(engine, source):
    size = 2 << 20
    text = source.block[:size].replace(b"\x10", b"\x11")  # no detach keys
    script = f"stty raw -echo; echo up; head -c {size} | sha256sum"
    cid = create(engine, script, Tty=True, OpenStdin=True, HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1", timeout=600)
    start(engine, cid)
    assert sock.recv(2) == b"up"
    sock.sendall(text)
    data = b""
    while more := sock.recv(1000):
        data += more
    assert data.split()[0].decode() == hashlib.sha256(text).hexdigest()


def test_exec_both_ways_at_once(engine, source):
    eid = create_exec(engine, box(engine, source), "cat", AttachStdin=True, AttachStdout=True)
    with exec_stream(engine, eid) as sock:
        stall = {0: 0.2, 3: 0.5, 8: 0.2}
        writer = threading.Thread(target=feed, args=(sock, source, lambda n: time.sleep(stall.get(n, 0))))
        writer.start()
        got = Frames(sock, lambda n: time.sleep(0.001) if n < BLOCK_BYTES else None).read()
        writer.join(600)
    assert got.digest() == source.digest()
    assert ended(engine, eid) == 0


def test_input_in_bulk_and_in_small_pieces(engine, source):
    """The way the bytes take changes many times, and the container stops taking them for a while."""
    cid = create(engine, "head -c 20000000 | sha256sum; sleep 1; exec sha256sum", OpenStdin=True, StdinOnce=True,
                 HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1", timeout=600)
    start(engine, cid)
    sent = bytearray()
    for n in range(6):
        for piece in [source.block[:4_000_000], *(b"%d" % i for i in range(3000))]:
            sock.sendall(piece)
            sent += piece
        time.sleep(0.05)
    sock.shutdown(socket.SHUT_WR)
    data = b""
    while more := sock.recv(1000):
        data += more
    # head reads ahead: what is left for the second program depends on its buffer.
    assert data[8:8 + 64].decode() == hashlib.sha256(sent[:20_000_000]).hexdigest()


def test_container_that_takes_no_input_any_more(engine, source):
    cid = create(engine, "head -c 1000000 >/dev/null; exec <&-; sleep 0.5; echo end", OpenStdin=True, StdinOnce=True,
                 HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1", timeout=600)
    start(engine, cid)
    for _ in range(3):
        sock.sendall(source.block)  # thrown away
    data = b""
    while more := sock.recv(1000):
        data += more
    assert data[8:] == b"end\n"


def test_client_that_vanishes_while_its_input_waits(engine, source):
    cid = create(engine, "exec sleep 1000", OpenStdin=True, HostConfig=source.host())
    start(engine, cid)
    attach(engine, cid, "stream=1&stdin=1")[0].close()
    base = len(glob.glob(f"/proc/{engine.pid}/fd/*")) if engine.pid else 0
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1")
    sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while True:
            sock.send(source.block)
    sock.close()
    if engine.pid:
        wait_for(lambda: descriptors(engine) <= base + 1, lambda: f"{descriptors(engine)} descriptors, {base} before", 5)


def test_input_that_is_not_read_holds_a_bounded_amount(engine, source):
    cid = create(engine, "sleep 2; exec sha256sum", OpenStdin=True, StdinOnce=True, HostConfig=source.host())
    sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1", timeout=600)
    start(engine, cid)
    sock.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < len(source.block):
            sent += sock.send(source.block[sent:sent + 65536])
    assert sent < 4 << 20
    sock.settimeout(600)
    sock.sendall(source.block[sent:])
    sock.shutdown(socket.SHUT_WR)
    data = b""
    while more := sock.recv(1000):
        data += more
    assert data[8:8 + 64].decode() == hashlib.sha256(source.block).hexdigest()


def test_end_of_one_clients_input_is_the_end_of_stdin_once_only(engine, source):
    for once, text in ((True, b"end\n"), (False, b"")):
        cid = create(engine, "cat >/dev/null; echo end", OpenStdin=True, StdinOnce=once, HostConfig=source.host())
        start(engine, cid)
        sock, _ = attach(engine, cid, "stream=1&stdin=1&stdout=1")
        sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while more := sock.recv(1000):
            data += more
        assert data[8:] == text
        assert status_of(engine, cid) == ("exited" if once else "running")


# --- hang-ups ------------------------------------------------------------------------------------

def descriptors(engine):
    return len(glob.glob(f"/proc/{engine.pid}/fd/*"))


@pytest.mark.gantry
@pytest.mark.parametrize("script", ["exec sleep 1000", "exec cat", "exec yes"])
def test_vanished_clients_are_noticed_at_once(engine, source, script):
    """Whether anything is printed or not, and whatever they attached to."""
    cid = create(engine, script, OpenStdin=True, HostConfig=source.host())
    start(engine, cid)
    wait_for(lambda: status_of(engine, cid) == "running", "it runs")
    attach(engine, cid, "stream=1&stdout=1")[0].close()
    base = wait_for(lambda: descriptors(engine), "descriptors")
    socks = [attach(engine, cid, f"stream=1&{query}")[0] for query in
             ("stdout=1", "stdin=1", "stdin=1&stdout=1&stderr=1", "stderr=1") for _ in range(4)]
    socks[0].shutdown(socket.SHUT_WR)
    wait_for(lambda: descriptors(engine) >= base + len(socks), "they are attached")
    for sock in socks:
        sock.close()
    wait_for(lambda: descriptors(engine) <= base + 1, lambda: f"{descriptors(engine)} descriptors, {base} before", 5)
