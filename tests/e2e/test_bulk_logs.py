"""Bulk through `logs -f` while the files rotate at 1 MiB: every byte at its place, or a gap that says exactly what is missing.

Clients read, stall, vanish and half-close. With GANTRY_FULL=1 the streams are 8 GiB long.
"""
import glob
import os
import random
import re
import socket
import struct
import threading
import time

import pytest
from conftest import FULL
from engine import wait_for
from test_streams import create, start

pytestmark = pytest.mark.gantry
BLOCK_BYTES = 8 << 20
BLOCKS = (8 << 30) // BLOCK_BYTES if FULL else 8
GAP = re.compile(rb"\[gantry: (\d+) bytes of output in \d+ records are missing here: the reader was slower than rotation\]\n")
HEAD = struct.Struct(">BxxxI")
SEGMENT_BYTES = 1 << 20


def utf8_block():
    """Text of one to four bytes a character, in lines of all lengths up to 16 kB: longer ones are cut between two bytes, as
    Docker's, and json-file cannot hold half a character."""
    chance = random.Random(11)
    letters = [chr(c) for c in (*range(0x20, 0x7f), *range(0xa1, 0x200), *range(0x4e00, 0x4f00), *range(0x1f300, 0x1f400))]
    out = bytearray()
    while len(out) < BLOCK_BYTES:
        out += "".join(chance.choices(letters, k=chance.choice((3, 80, 1000, 4000)))).encode() + b"\n"
    return bytes(out)


def random_block():
    """Any bytes, with fewer newlines than there would be."""
    return os.urandom(BLOCK_BYTES).replace(b"\n", b"\r", 30_000)


@pytest.fixture(scope="module")
def blocks(workdir):
    """What containers print: by driver, a directory for them and its bytes."""
    made = {}
    for driver, block in (("json-file", utf8_block()), ("local", random_block())):
        path = workdir / f"logs-{driver}"
        path.mkdir()
        (path / "block").write_bytes(block)
        made[driver] = path, block
    return made


class Follower:
    """A client whose bytes are compared with what the container prints as they come."""

    def __init__(self, engine, cid, block, tty, half_close=False):
        self.block, self.tty, self.unit_bytes = block, tty, len(block) + 8
        self.offset, self.gaps, self.failure, self.unit = 0, [], None, (-1, b"")
        self.sock = engine.connect(3600)
        self.sock.sendall(f"GET /v1.48/containers/{cid}/logs?follow=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        self.file = self.sock.makefile("rb", 1 << 20)
        assert b"200" in self.file.readline()
        while self.file.readline() != b"\r\n":
            pass
        if half_close:
            self.sock.shutdown(socket.SHUT_WR)

    def chunks(self):
        while size := int(self.file.readline() or b"0", 16):
            yield self.file.read(size)
            assert self.file.readline() == b"\r\n"

    def take(self, data):
        while data:
            number, at = divmod(self.offset, self.unit_bytes)
            if self.unit[0] != number:
                self.unit = number, b"%08d" % number + self.block
            part = data[:self.unit_bytes - at]
            assert self.unit[1].startswith(part, at), f"{part[:50]} at {self.offset}"
            self.offset += len(part)
            data = data[len(part):]

    def gap(self, text):
        size = int(GAP.fullmatch(text)[1])
        assert size > 0
        self.gaps.append(size)
        self.offset += size

    def read(self, pause=lambda offset: None):
        rest = b""
        for chunk in self.chunks():
            if self.tty:
                self.gap(chunk) if GAP.fullmatch(chunk) else self.take(chunk)
            else:
                chunk, at = rest + chunk, 0
                while len(chunk) >= at + 8:
                    stream, size = HEAD.unpack_from(chunk, at)
                    if len(chunk) < at + 8 + size:
                        break
                    text = chunk[at + 8:at + 8 + size]
                    self.take(text) if stream == 1 else self.gap(text)
                    at += 8 + size
                rest = chunk[at:]
            pause(self.offset)
        assert not rest, "the stream ends within a frame"

    def start(self, pause=lambda offset: None):
        def run():
            try:
                self.read(pause)
            except InterruptedError:
                self.file.close()
                self.sock.close()
            except Exception as e:
                self.failure = e
        self.thread = threading.Thread(target=run)
        self.thread.start()


def prepare(engine, blocks, driver, files, tty=False):
    path, block = blocks[driver]
    log = {"Type": driver, "Config": {"max-size": "1m", "max-file": str(files), "compress": "false"}}
    script = f"i=0; while [ $i -lt {BLOCKS} ]; do printf %08d $i; cat /data/block; i=$((i+1)); done"
    host = {"NetworkMode": "none", "Binds": [f"{path}:/data:ro"], "LogConfig": log}
    cid = create(engine, "stty raw -echo; " + script if tty else script, HostConfig=host, Tty=tty)
    return cid, block, BLOCKS * (len(block) + 8)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_followers_of_all_kinds(engine, blocks, driver, tty):
    cid, block, total = prepare(engine, blocks, driver, 8, tty)
    start(engine, cid)
    quick, stalls, vanishes, ends_input = (Follower(engine, cid, block, tty, half_close=n == 3) for n in range(4))
    due = iter(range(total // 5, total, total // 5))
    next_due = [next(due)]

    def stall(offset):
        if offset >= next_due[0]:
            next_due[0] = next(due, total + 1)
            time.sleep(0.5)

    def vanish(offset):
        if offset > total // 3:
            raise InterruptedError
    quick.start()
    stalls.start(stall)
    vanishes.start(vanish)
    ends_input.start()
    for follower in (quick, stalls, vanishes, ends_input):
        follower.thread.join(7200)
        assert not follower.thread.is_alive() and follower.failure is None, follower.failure
    # What was compared as it came, and the gaps, are all there was.
    assert quick.offset == stalls.offset == total, (quick.offset, quick.gaps, stalls.offset, stalls.gaps)
    assert vanishes.offset > total // 3
    # As with dockerd the end of a client's input may be its end.
    assert ends_input.offset <= total


def pinned(engine):
    """Removed files of logs that the daemon holds."""
    found = 0
    for fd in glob.glob(f"/proc/{engine.pid}/fd/*"):
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        found += target.endswith(" (deleted)") and "/containers/" in target and not target.endswith(".idx (deleted)")
    return found


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_stalled_follower_holds_few_files_and_hears_what_it_missed(engine, blocks, driver):
    most = engine.debug()["limits"]["removed_log_bytes_per_container"] // SEGMENT_BYTES + 2
    cid, block, total = prepare(engine, blocks, driver, 2)
    before = engine.debug()["logs"]["follower_gaps"]
    start(engine, cid)
    follower = Follower(engine, cid, block, False)
    held = 0

    def ended():
        nonlocal held
        held = max(held, pinned(engine))
        return engine.inspect(cid)["State"]["Status"] == "exited"
    wait_for(ended, "it ends", 3600)
    assert 0 < held <= most, held
    follower.read()
    assert follower.offset == total and sum(follower.gaps) > total // 2
    assert engine.debug()["logs"]["follower_gaps"] > before
    wait_for(lambda: pinned(engine) == 0, "nothing is held any more", 20)
