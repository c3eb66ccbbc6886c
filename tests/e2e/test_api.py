"""The HTTP surface: routing, versions, ping, info, errors, honest answers."""
import json
import pathlib

import pytest

OPERATIONS = [tuple(line.split()) for line in
              (pathlib.Path(__file__).parent / "data/operations.txt").read_text().splitlines()
              if not line.startswith("#")]


def test_the_table_is_whole():
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 107


# What needs a registry says so where none can be reached.
NO_REGISTRY = b"dial tcp"


@pytest.mark.gantry  # some of them change a real swarm
@pytest.mark.parametrize("prefix", ["", "/v1.48", "/v1.24"])
def test_every_operation_is_routed(session_engine, prefix):
    """None answers the router's "page not found"; one not built yet names itself with a 501."""
    missing = []
    for method, path in OPERATIONS:
        target = prefix + path.replace("{id}", "nosuchid").replace("{name}", "nosuchname")
        with session_engine.connect(60) as sock:
            sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
                         "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".encode())
            data = b""
            while b"\r\n\r\n" not in data and (block := sock.recv(65536)):
                data += block
            head, _, body = data.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            if status in (404, 405, 500, 501) and method != "HEAD":
                while block := sock.recv(65536):
                    body += block
            if (status == 404 and b"page not found" in body) or status == 405 \
                    or (status == 500 and NO_REGISTRY not in body):
                missing.append((method, path, status, body[:200]))
            if status == 501 and method != "HEAD":
                assert b'"message"' in body, (method, path, body)
    assert not missing


def test_page_not_found(session_engine):
    for path in ("/nonsense", "/v1.48/containers", "/v1.48/containers/a/b/c"):
        assert session_engine.json("GET", path) == (404, {"message": "page not found"})


def test_versions(session_engine):
    status, headers, body = session_engine.http("GET", "/v1.23/info")
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")  # as clients that old expect
    assert body.decode().strip() == ("client version 1.23 is too old. Minimum supported API version is 1.24, "
                                     "please upgrade your client to a newer version")
    status, doc = session_engine.json("GET", "/v1.99/info")
    assert status == 400 and doc["message"].startswith("client version 1.99 is too new. Maximum supported API version is 1.")
    for version in range(24, 49):
        status, doc = session_engine.json("GET", f"/v1.{version}/containers/json")
        assert status == 200 and doc == []


def test_ping(session_engine):
    status, headers, body = session_engine.http("GET", "/_ping")
    assert (status, body) == (200, b"OK")
    assert headers["api-version"].startswith("1.") and headers["ostype"] == "linux"
    assert headers["docker-experimental"] == "false" and headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert headers["pragma"] == "no-cache" and headers["swarm"] == "inactive" and "builder-version" in headers
    assert headers["content-type"] == "text/plain; charset=utf-8" and headers["server"]
    status, head, body = session_engine.http("HEAD", "/_ping")
    assert (status, body) == (200, b"") and head["content-length"] == "0" and head["api-version"] == headers["api-version"]


def test_version_and_info(session_engine):
    _, version = session_engine.json("GET", "/version")
    assert version["MinAPIVersion"] == "1.24" and version["Os"] == "linux" and version["Arch"] == "amd64"
    assert [c["Name"] for c in version["Components"]][0] == "Engine"
    with open("/proc/sys/kernel/osrelease") as f:
        assert version["KernelVersion"] == f.read().strip()
    cid = session_engine.ok("run", "-d", "busybox", "sleep", "600")
    try:
        _, info = session_engine.json("GET", "/info")
        assert (info["Containers"], info["ContainersRunning"], info["ContainersStopped"]) == (1, 1, 0)
        assert info["Images"] >= 1 and info["OSType"] == "linux" and info["CgroupDriver"] == "cgroupfs"
        assert info["LoggingDriver"] == "json-file" and info["Swarm"]["LocalNodeState"] == "inactive"
        with open("/proc/meminfo") as f:
            assert info["MemTotal"] == int(f.readline().split()[1]) * 1024
        assert session_engine.ok("info", "-f", "{{.ContainersRunning}}") == "1"
    finally:
        session_engine.ok("rm", "-f", cid)


def test_networks_and_volumes_are_true(session_engine):
    _, networks = session_engine.json("GET", "/networks")
    assert {(n["Name"], n["Driver"], n["Scope"]) for n in networks} == {
        ("bridge", "bridge", "local"), ("host", "host", "local"), ("none", "null", "local")}
    for n in networks:
        assert session_engine.json("GET", f"/networks/{n['Name']}")[1]["Id"] == n["Id"]
    status, doc = session_engine.json("GET", "/networks/nosuch")
    assert (status, doc) == (404, {"message": "network nosuch not found"})
    _, volumes = session_engine.json("GET", "/volumes")
    assert volumes["Volumes"] in ([], None)
    assert session_engine.json("GET", "/volumes/nosuch") == (404, {"message": "get nosuch: no such volume"})
    assert sorted(session_engine.ok("network", "ls", "--format", "{{.Name}}").split()) == ["bridge", "host", "none"]
    assert session_engine.ok("volume", "ls", "-q") == ""


@pytest.mark.gantry
def test_default_network_is_honest_about_having_no_address(engine):
    cid = engine.ok("run", "-d", "busybox", "sleep", "600")
    assert engine.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", cid) in ("", "<no value>")


@pytest.mark.parametrize("body,status", [
    (b"", 400), (b"{", 400), (b"[]", 400), (b'{"Image": 5}', 400), (b'{"Image": "busybox"} trailing', 400),
    (b'{"Image": "busybox", "HostConfig": {"Memory": "many"}}', 400), (b"\xff\xfe", 400), (b"null", 400),
    (b'{"Image": "busybox", "HostConfig": {"Memory": 1}}', 400),
])
def test_bad_json_is_a_clear_400(session_engine, body, status):
    got, _, answer = session_engine.http("POST", "/containers/create", body, {"Content-Type": "application/json"})
    assert got == status, answer
    assert json.loads(answer)["message"]
    assert session_engine.ok("ps", "-aq") == ""


def test_wrong_content_type(session_engine):
    got, _, answer = session_engine.http("POST", "/containers/create", b'{"Image":"busybox"}',
                                         {"Content-Type": "text/plain"})
    assert got == 400 and "unsupported Content-Type header (text/plain)" in json.loads(answer)["message"]


def test_oversized_head_is_bounded(session_engine):
    with session_engine.connect(120) as sock:
        try:
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n")
            for _ in range(4096):
                sock.sendall(b"X-A: " + b"a" * 1000 + b"\r\n")
            sock.sendall(b"\r\n")
            answer = sock.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer == b"" or answer.split()[1] in (b"431", b"400")
    assert session_engine.http("GET", "/_ping")[0] == 200


@pytest.mark.gantry
def test_oversized_body_is_a_clear_4xx(session_engine):
    status, _, body = session_engine.http("POST", "/containers/create", b'{"Image":"' + b"a" * (32 << 20) + b'"}')
    assert 400 <= status < 500 and json.loads(body)["message"]


def test_keep_alive_and_pipelining(session_engine):
    with session_engine.connect() as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" * 50)
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < 50:
            block = sock.recv(65536)
            assert block
            data += block


def test_hijack_without_upgrade(engine):
    """The second form: 200 and a raw stream when the client asks for no upgrade."""
    engine.ok("create", "--name", "hj", "-i", "busybox", "cat")
    for upgrade, want in ((b"", b"HTTP/1.1 200 OK"), (b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b"HTTP/1.1 101 UPGRADED")):
        with engine.connect() as sock:
            sock.sendall(b"POST /v1.48/containers/hj/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\n"
                         + upgrade + b"\r\n")
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(1)
            assert head.startswith(want)
            # a stopped container: the client starts it, as `docker run` does
            engine.ok("start", "hj")
            sock.sendall(b"abc\n")
            sock.shutdown(1)
            data = b""
            while block := sock.recv(4096):
                data += block
            assert data == b"\x01\0\0\0\0\0\0\x04abc\n"
        engine.ok("wait", "hj")


@pytest.mark.gantry
def test_debug_counts_are_readable(session_engine):
    assert session_engine.debug()
