"""An engine under test: the daemon's process, and the docker CLI and raw HTTP against it."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid

REPO = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_S = 180
BOOT_TIMEOUT_S = 60


def wait_for(condition, what, timeout_s=TIMEOUT_S, step_s=0.02):
    """Poll until `condition()` is true; the deadline is only there to end a broken run."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what() if callable(what) else what}")
        time.sleep(step_s)


def gantryd_binary():
    if os.environ.get("GANTRYD"):
        return os.environ["GANTRYD"]
    found = [p for p in (REPO / "target/release/gantryd", REPO / "target/debug/gantryd") if p.exists()]
    if not found:
        raise RuntimeError("no gantryd: run `cargo build` first or set GANTRYD")
    return str(max(found, key=lambda p: p.stat().st_mtime))


class External:
    """An engine somebody else runs, reached by DOCKER_HOST."""
    external = True

    def __init__(self, host, workdir):
        self.host, self.workdir = host, pathlib.Path(workdir)
        self.config = self.workdir / "docker-config"
        self.config.mkdir(parents=True, exist_ok=True)
        self.pid = None

    def start(self):
        self.wait_up()

    def stop(self):
        pass

    def alive(self):
        return True

    @property
    def socket_path(self):
        return self.host.removeprefix("unix://")

    def env(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        return env | {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.config)}

    def cli(self, *args, timeout=TIMEOUT_S, **kw):
        """Run the docker CLI; returns CompletedProcess with text output unless text=False."""
        kw.setdefault("text", True)
        if "input" not in kw and "stdin" not in kw:
            kw["stdin"] = subprocess.DEVNULL
        return subprocess.run(["docker", *args], env=self.env(), capture_output=True, timeout=timeout, **kw)

    def ok(self, *args, **kw):
        """Run the docker CLI, which must succeed; returns its stdout without the last newline."""
        done = self.cli(*args, **kw)
        assert done.returncode == 0, f"docker {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n") if isinstance(done.stdout, str) else done.stdout

    def popen(self, *args, **kw):
        return subprocess.Popen(["docker", *args], env=self.env(), **kw)

    def inspect(self, name):
        return json.loads(self.ok("inspect", name))[0]

    def wait_up(self):
        def up():
            self.check_process()
            try:
                return self.http("GET", "/_ping")[0] == 200
            except OSError:
                return False
        wait_for(up, f"{self.host} answers", BOOT_TIMEOUT_S)

    def check_process(self):
        pass

    def connect(self, timeout=TIMEOUT_S):
        if self.host.startswith("tcp://"):
            address, _, port = self.host.removeprefix("tcp://").rpartition(":")
            return socket.create_connection((address, int(port)), timeout)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(self.socket_path)
        return sock

    def http(self, method, path, body=None, headers=None, timeout=TIMEOUT_S):
        """One request on a connection of its own: status, lower-case headers, body."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = {"Host": "d", "Connection": "close"}
        if body is not None:
            head |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        head |= headers or {}
        lines = [f"{method} {path} HTTP/1.1"] + [f"{k}: {v}" for k, v in head.items()]
        with self.connect(timeout) as sock:
            try:
                sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            except BrokenPipeError:
                pass  # refused before the whole body was sent; the answer is there to be read
            return read_response(sock, method)

    def json(self, method, path, body=None, **kw):
        status, _, data = self.http(method, path, body, **kw)
        return status, json.loads(data) if data.strip() else None

    def remove_all(self):
        ids = self.ok("ps", "-aq", "--no-trunc").split()
        if ids:
            self.cli("rm", "-fv", *ids)  # one may be removing itself at this moment: the list below decides
        wait_for(lambda: not self.ok("ps", "-aq"), "no container left")


class Daemon(External):
    """A gantryd started by the suite, with everything of its own below `root`."""
    external = False

    def __init__(self, root, args=()):
        root = pathlib.Path(root)
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(f"unix://{root}/d.sock", root)
        self.data_root, self.exec_root = root / "data", root / "exec"
        self.log_path = root / "gantryd.log"
        self.mark = uuid.uuid4().hex
        self.args, self.process, self.extra_env = [*os.environ.get("GANTRY_TEST_ARGS", "").split(), *args], None, {}

    def command(self, sock=None):
        return [gantryd_binary(), "-H", sock or self.host, "--data-root", str(self.data_root),
                "--exec-root", str(self.exec_root), "--pidfile", str(self.workdir / "gantryd.pid"), *self.args]

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=os.environ | {"GANTRY_TEST_MARK": self.mark} | self.extra_env)
        self.pid = self.process.pid
        self.wait_up()

    def check_process(self):
        if self.process.poll() is not None:
            tail = self.log_path.read_text(errors="replace")[-4000:]
            raise AssertionError(f"gantryd ended with {self.process.returncode}:\n{tail}")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """SIGTERM, and the exit it must lead to."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(TIMEOUT_S)
            assert code == 0, f"gantryd ended with {code} on SIGTERM\n{self.log_path.read_text()[-2000:]}"

    def kill9(self):
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def debug(self):
        status, doc = self.json("GET", "/gantry/debug")
        assert status == 200, doc
        return doc


def read_response(sock, method="GET"):
    """Read one HTTP/1.1 response until its end (length, chunks or close)."""
    f = sock.makefile("rb")
    status_line = f.readline()
    if not status_line:
        raise ConnectionError("closed without an answer")
    status, headers = int(status_line.split()[1]), {}
    for line in iter(f.readline, b""):
        if line in (b"\r\n", b"\n"):
            break
        key, _, value = line.decode("latin-1").partition(":")
        headers[key.strip().lower()] = value.strip()
    if method == "HEAD" or status in (204, 304):
        return status, headers, b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return status, headers, b"".join(read_chunks(f))
    if "content-length" in headers:
        return status, headers, f.read(int(headers["content-length"]))
    return status, headers, f.read()


def read_chunks(f):
    while True:
        size = int(f.readline().split(b";")[0] or b"0", 16)
        if size == 0:
            f.readline()
            return
        yield f.read(size)
        f.readline()
