"""Attach, logs and exec over plain HTTP, byte by byte as dockerd 28.5.2 answered the same requests.

`python3 tests/e2e/test_hijack.py SOCKET > tests/e2e/data/hijack.json` records an engine that has busybox loaded.
"""
import concurrent.futures
import contextlib
import json
import pathlib
import re
import socket
import sys
import time

import pytest

DATA = pathlib.Path(__file__).parent / "data/hijack.json"
QUIET_S = 1.0
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
BOTH = "echo out; sleep 0.2; echo err >&2; exec cat"
ENDED = "echo out; sleep 0.2; echo err >&2; sleep 0.2; printf part"
BOXES = {
    "created": {"Cmd": ["sh", "-c", BOTH], "OpenStdin": True},
    "running": {"Cmd": ["sh", "-c", BOTH], "OpenStdin": True},
    "echoing": {"Cmd": ["cat"], "OpenStdin": True},
    "paused": {"Cmd": ["sh", "-c", BOTH], "OpenStdin": True},
    "exited": {"Cmd": ["sh", "-c", ENDED]},
    "tty": {"Cmd": ["sh", "-c", "echo out; exec cat"], "OpenStdin": True, "Tty": True},
    "ttyexited": {"Cmd": ["sh", "-c", "echo out; echo err >&2"], "Tty": True},
    "local": {"Cmd": ["sh", "-c", ENDED], "log": {"Type": "local", "Config": {}}},
    "syslog": {"Cmd": ["sh", "-c", ENDED], "log": {"Type": "syslog", "Config": {"syslog-address": "udp://127.0.0.1:9"}}},
    "details": {"Cmd": ["echo", "out"], "Env": ["E=x y"], "Labels": {"l": "v,1"},
                "log": {"Type": "json-file", "Config": {"env": "E", "labels": "l", "tag": "{{.Name}}"}}},
    "plain": {"Cmd": ["sleep", "600"]},
}


def cases():
    """name: (method, path, headers, what is sent after the answer's head)"""
    found = {}

    def case(method, path, headers="", after=b""):
        found[f"{method} {path} {'upgrade' if headers == UPGRADE else headers!r} {after!r}"] = (method, path, headers, after)

    for headers in ("", UPGRADE):
        for box in ("created", "running", "paused", "exited", "tty", "ttyexited", "local", "syslog", "nosuch"):
            for query in ("", "stream=1&stdout=1&stderr=1", "logs=1&stdout=1&stderr=1", "logs=1&stream=1&stdout=1&stderr=1",
                          "logs=1&stderr=1", "stream=1", "logs=1", "stdout=1", "stream=1&stdin=1&stdout=1", "stdin=1"):
                case("POST", f"{box}/attach?{query}", headers)
        for keys in ("foo", "ctrl-p,", "ctrl-1", "ctrl-%5B", ",a", "a,b,c"):
            case("POST", f"running/attach?stream=1&stdout=1&detachKeys={keys}", headers)
        case("POST", "nosuch/attach?stream=1&detachKeys=foo", headers)
        case("POST", "echoing/attach?stream=1&stdin=1&stdout=1&stderr=1", headers, b"hello\n")
        case("POST", "tty/attach?stream=1&stdin=1&stdout=1&detachKeys=x,y", headers, b"xy")
        case("POST", "tty/attach?stream=1&stdin=1&stdout=1", headers, b"\x10\x11")
        case("POST", "running/attach?stream=yes&stdout=1", headers)
    case("POST", "running/attach?stream=1&stdout=1", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
    case("POST", "running/attach?stream=1&stdout=1", "Upgrade: tcp\r\n")
    case("POST", "/v1.41/containers/tty/attach?stream=1&stdout=1", UPGRADE)
    case("POST", "/v1.41/containers/running/attach?stream=1&stdout=1", UPGRADE)
    for box in ("created", "running", "paused", "exited", "tty", "ttyexited", "local", "syslog", "nosuch", "details"):
        for query in ("", "stdout=1", "stderr=1", "stdout=1&stderr=1", "stdout=0&stderr=0", "stdout=1&timestamps=1",
                      "stdout=1&details=1", "stdout=1&stderr=1&tail=1", "stdout=1&stderr=1&details=1&timestamps=1"):
            case("GET", f"{box}/logs?{query}")
    for value in ("foo", "-1", "1.5", "0", "", "1e3", "2020-01-01", "99999999999", "1.x", "99999999999999999999", "now"):
        for name in ("since", "until"):
            case("GET", f"exited/logs?stdout=1&{name}={value}")
    for value in ("foo", "-1", "0", "", "all", "ALL", "1.5", "99999999999999999999", "%2B1", "1%20"):
        case("GET", f"exited/logs?stdout=1&stderr=1&tail={value}")
    for query in ("stdout=yes", "stdout=TRUE", "stdout=false&stderr=1", "stdout=no", "follow=1", "stdout=1&until=1&since=2"):
        case("GET", f"exited/logs?{query}")
    for path in ("/v1.41/containers/exited/logs?stdout=1", "/v1.41/containers/tty/logs?stdout=1", "/containers/exited/logs?stdout=1"):
        case("GET", path)
    return found


def exec_cases():
    """name: (box, exec, start, headers, what is sent after the answer's head)"""
    found = {}

    def case(spec, start, headers, after=b"", box="plain"):
        found[f"exec {box} {spec} {start} {bool(headers)}"] = (box, spec, start, headers, after)

    both = {"Cmd": ["sh", "-c", "echo out; sleep 0.2; echo err >&2"], "AttachStdout": True, "AttachStderr": True}
    for headers in ("", UPGRADE):
        for start in ({}, {"Detach": True}, {"Tty": True}, None, {"ConsoleSize": [10, 20]}, {"Tty": True, "ConsoleSize": [10, 20]},
                      {"Detach": True, "Tty": True}):
            case(both, start, headers)
            case(both | {"Tty": True}, start, headers)
        case({"Cmd": ["echo", "out"]}, {}, headers)
        case({"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}, {}, headers, b"hello\n")
        case({"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True, "Tty": True, "DetachKeys": "a,b"}, {"Tty": True}, headers,
             b"ab")
        for command in ("nosuch", "/"):
            case({"Cmd": [command], "AttachStdout": True, "AttachStderr": True}, {}, headers)
        case({"Cmd": ["true"], "DetachKeys": "foo"}, {}, headers)
    for box in ("created", "paused", "exited", "nosuch"):
        case({"Cmd": ["true"], "AttachStdout": True}, {}, "", box=box)
    return found


class Http:
    def __init__(self, path):
        self.path = path

    def raw(self, method, path, headers="", body=b"", after=b"", quiet_s=QUIET_S):
        """The answer up to the end of the connection or a while of silence, and which of the two."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.path)
            length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
            kind = "Content-Type: application/json\r\n" if body else ""
            sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: d\r\n{headers}{kind}{length}\r\n".encode() + body)
            got = b""
            while True:
                try:
                    piece = sock.recv(1 << 16)
                except TimeoutError:
                    return got, "open"
                if not piece:
                    return got, "end"
                got += piece
                if b"\r\n\r\n" in got:
                    sock.settimeout(quiet_s)
                    if after:
                        sock.sendall(after)
                        after = b""

    def api(self, method, path, doc=None):
        body = b"" if doc is None else json.dumps(doc).encode()
        got, _ = self.raw(method, "/v1.48" + path, "Connection: close\r\n", body, quiet_s=60)
        head, _, rest = got.partition(b"\r\n\r\n")
        return int(head.split()[1]), unchunked(head, rest)

    def make(self, prefix):
        for name, spec in BOXES.items():
            log = spec.get("log", {"Type": "json-file", "Config": {}})
            spec = {k: v for k, v in spec.items() if k != "log"} | {
                "Image": "busybox", "HostConfig": {"NetworkMode": "none", "LogConfig": log}}
            status, answer = self.api("POST", f"/containers/create?name={prefix}{name}", spec)
            assert status == 201, answer
            if name != "created":
                assert self.api("POST", f"/containers/{prefix}{name}/start")[0] == 204
        deadline = time.monotonic() + 60
        while any(json.loads(self.api("GET", f"/containers/{prefix}{name}/json")[1])["State"]["Running"]
                  for name in ("exited", "local", "syslog", "details", "ttyexited")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        assert self.api("POST", f"/containers/{prefix}paused/pause")[0] == 204

    def remove(self, prefix):
        for name in BOXES:
            self.api("DELETE", f"/containers/{prefix}{name}?force=1")

    def run(self, prefix):
        """What comes of every case."""
        def plain(method, path, headers, after):
            whole = path if path.startswith("/") else f"/v1.48/containers/{path}"
            whole = whole.replace("/containers/", f"/containers/{prefix}", 1)
            return shown(*self.raw(method, whole, headers, after=after), prefix)

        def exec_(box, spec, start, headers, after):
            status, answer = self.api("POST", f"/containers/{prefix}{box}/exec", spec)
            if status != 201:
                return [str(status), re.sub(r"[0-9a-f]{64}", "ID", answer.decode()).replace(prefix, ""), "create"]
            body = b"" if start is None else json.dumps(start).encode()
            return shown(*self.raw("POST", f"/v1.48/exec/{json.loads(answer)['Id']}/start", headers, body, after), prefix)

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            jobs = {name: pool.submit(plain, *case) for name, case in cases().items()}
            jobs |= {name: pool.submit(exec_, *case) for name, case in exec_cases().items()}
            return {name: job.result() for name, job in jobs.items()}


def unchunked(head, rest):
    if b"chunked" not in head.lower():
        return rest
    whole = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return whole
        whole, rest = whole + rest[:int(size, 16)], rest[int(size, 16) + 2:]
    return whole + b"<not complete>"


def shown(got, end, prefix):
    """Head without what every engine has of its own, body, and how it ended. Errors are framed by their length here and
    by the connection's end there."""
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    own = "date|server|api-version|ostype|docker-experimental|content-length"
    lines = [line for line in lines if not re.match(f"(?i)({own}):", line)]
    if not re.search(" (101|200) ", first):
        lines = [line for line in lines if not line.lower().startswith("connection:")]
    body = unchunked(head, body).decode(errors="backslashreplace").replace(prefix, "")
    body = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "TIME", body)
    body = re.sub(r"#TIME|\$TIME|=TIME|.TIME", "?TIME", body)
    body = re.sub(r"[0-9a-f]{64}", "ID", body)
    return ["\r\n".join([first, *sorted(lines)]), body, end]


def intended(want):
    """What is the client's fault is told with 400, also where dockerd says 500."""
    head, body, end = want
    if "strconv.ParseInt" in body:
        head = head.replace("500 Internal Server Error", "400 Bad Request")
    return [head, body, end]


@pytest.fixture
def http(engine):
    return Http(engine.host.removeprefix("unix://"))


def test_bytes_are_dockerds(engine, http):
    recorded = json.loads(DATA.read_text())
    prefix = "hj-"
    try:
        http.make(prefix)
        got = http.run(prefix)
    finally:
        http.remove(prefix)
    wanted = {name: want if engine.external else intended(want) for name, want in recorded.items()}
    assert got.keys() == wanted.keys()
    wrong = [f"{name}\n  got  {got[name]}\n  want {wanted[name]}" for name in wanted if got[name] != wanted[name]]
    assert not wrong, f"{len(wrong)} of {len(wanted)} differ:\n" + "\n".join(wrong[:20])


@pytest.mark.parametrize("driver,opts", [
    ("none", {}), ("syslog", {"syslog-address": "udp://127.0.0.1:9", "cache-disabled": "true"})])
def test_a_log_that_nobody_can_read(engine, http, driver, opts):
    """dockerd says so for a running container; for one that has ended it looks for a plugin of that name for 15 s."""
    spec = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"LogConfig": {"Type": driver, "Config": opts}}}
    assert http.api("POST", "/containers/create?name=hj-none", spec)[0] == 201
    assert http.api("POST", "/containers/hj-none/start")[0] == 204
    status, answer = http.api("GET", "/containers/hj-none/logs?stdout=1")
    assert (status, json.loads(answer)) == (501, {"message": "configured logging driver does not support reading"})
    if not engine.external:  # dockerd waits for a plugin of that name, also here.
        got, end = http.raw("POST", "/v1.48/containers/hj-none/attach?logs=1&stdout=1")
        text = b"Error attaching: configured logging driver does not support reading\n"
        assert (got.partition(b"\r\n\r\n")[2], end) == (b"\x01\0\0\0\0\0\0%c" % len(text) + text, "end")


if __name__ == "__main__":
    peer = Http(sys.argv[1])
    with contextlib.suppress(BrokenPipeError):
        peer.remove("hj-")
        peer.make("hj-")
        print(json.dumps(peer.run("hj-"), indent=0))
        peer.remove("hj-")
