"""`docker run -it` under a real pseudo-terminal."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import pytest

TIMEOUT_S = 90
DETACH = b"\x10\x11"


class Terminal:
    """The docker CLI with a pty as its terminal."""

    def __init__(self, engine, *args, rows=24, cols=80):
        env = engine.env()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe("docker", ["docker", *args], env)
            finally:
                os._exit(98)
        self.seen = b""
        self.size(rows, cols)

    def size(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def send(self, data):
        os.write(self.fd, data if isinstance(data, bytes) else data.encode())

    def expect(self, pattern):
        """Read until `pattern` comes; what is before its end is consumed."""
        pattern = re.compile(pattern if isinstance(pattern, bytes) else pattern.encode())
        deadline = time.monotonic() + TIMEOUT_S
        while not (match := pattern.search(self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern.pattern!r} did not come, only {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    block = os.read(self.fd, 65536)
                except OSError:
                    block = b""
                assert block, f"ended before {pattern.pattern!r}, only {self.seen!r}"
                self.seen += block
        self.seen = self.seen[match.end():]
        return match

    def wait(self):
        """The CLI's exit code; its output is read meanwhile."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"the CLI does not end: {self.seen!r}"
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    pass


def prompt(term, text="ready"):
    """Wait for a shell that answers; quotes keep the echo from matching."""
    term.send(f"echo {text[0]}''{text[1:]}\n")
    term.expect(rf"\n{text}\r\n")


def test_typing_and_exit_code(engine):
    term = Terminal(engine, "run", "-it", "--rm", "busybox")
    prompt(term)
    term.send("tty; echo $TERM\n")
    term.expect(r"/dev/pts/0\r\n")
    term.expect(r"xterm\r\n")
    term.send("exit 5\n")
    assert term.wait() == 5


def test_ctrl_c_interrupts(engine):
    term = Terminal(engine, "run", "-it", "--rm", "busybox", "sh", "-c",
                    "trap 'echo got-int; exit 9' INT; echo wait''ing; while :; do sleep 1; done")
    term.expect("waiting")
    term.send(b"\x03")
    term.expect("got-int")
    assert term.wait() == 9


def test_resize(engine):
    term = Terminal(engine, "run", "-it", "--rm", "busybox", rows=31, cols=101)
    prompt(term)
    for rows, cols in ((31, 101), (40, 133)):
        for _ in range(200):
            term.size(rows, cols)  # again each time: the CLI may not listen to SIGWINCH yet
            term.send("stty size\n")
            if term.expect(r"\n(\d+ \d+)\r\n")[1].decode() == f"{rows} {cols}":
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"size never became {rows} {cols}")
    term.send("exit\n")
    assert term.wait() == 0


def test_initial_size_is_set_at_start(engine):
    status, doc = engine.json("POST", "/v1.44/containers/create", {
        "Image": "busybox", "Tty": True, "Cmd": ["stty", "size"], "HostConfig": {"ConsoleSize": [33, 77]}})
    assert status == 201
    engine.ok("start", doc["Id"])
    engine.ok("wait", doc["Id"])
    assert engine.ok("logs", doc["Id"]).strip() == "33 77"


def test_detach_and_attach_again(engine):
    term = Terminal(engine, "run", "-it", "--name", "tt", "busybox")
    prompt(term)
    term.send(DETACH)
    assert term.wait() == 0
    assert engine.inspect("tt")["State"]["Running"]
    term = Terminal(engine, "attach", "tt")
    prompt(term, "again")
    term.send("exit 6\n")
    assert term.wait() == 6


def test_own_detach_keys(engine):
    term = Terminal(engine, "run", "-it", "--name", "tk", "--detach-keys", "ctrl-a,x", "busybox")
    prompt(term)
    term.send("\x01")
    term.send("x")
    assert term.wait() == 0
    assert engine.inspect("tk")["State"]["Running"]


def test_prefix_of_detach_keys_is_typed_through(engine):
    term = Terminal(engine, "run", "-it", "--rm", "--detach-keys", "x,y,z", "busybox", "head", "-c", "5")
    term.send("xyxyq\n")
    term.expect("xyxyq")
    assert term.wait() == 0


def test_signals_are_proxied_without_tty(engine):
    proc = engine.popen("run", "--rm", "--name", "px", "busybox", "sh", "-c",
                        "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done", stdout=-1)
    assert proc.stdout.readline() == b"up\n"
    proc.send_signal(signal.SIGTERM)
    assert proc.wait(TIMEOUT_S) == 3
    proc.stdout.close()


def test_tty_output_has_one_stream(engine):
    done = engine.cli("run", "--rm", "-t", "busybox", "sh", "-c", "echo a; echo b >&2", text=False)
    assert (done.stdout, done.stderr) == (b"a\r\nb\r\n", b"")
