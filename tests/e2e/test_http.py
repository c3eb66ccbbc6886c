"""HTTP itself, by raw sockets: what any client of net/http may rely on. The tables hold for dockerd too."""
import json
import re
import select
import socket
import threading
import urllib.parse

import docker
import pytest
from engine import REPO, Daemon, wait_for

HOST = b"Host: d\r\n"
JSON = b"Content-Type: application/json\r\n"
CREATE = b"/containers/create?name=http-test"
NO_IMAGE = b'{"Image":"nosuch"}'
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def request(method, path, head=HOST, body=b"", version=b"HTTP/1.1"):
    return b"%s %s %s\r\n%s\r\n%s" % (method, path, version, head, body)


def get(path, head=HOST):
    return request(b"GET", path, head)


def post(path, body, head=JSON):
    return request(b"POST", path, HOST + head + b"Content-Length: %d\r\n" % len(body), body)


def send(eng, data, quiet_s=1.0, half_close=False):
    """Send bytes; all that comes back until the end or a second of silence, and whether it ended."""
    with eng.connect(5) as sock:
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        out = b""
        try:
            while piece := sock.recv(65536):
                out += piece
                sock.settimeout(quiet_s)
        except TimeoutError:
            return out, False
        except ConnectionResetError:
            pass
        return out, True


def answers(data):
    """Status codes of the responses in a byte stream of small answers."""
    return [int(m) for m in re.findall(rb"HTTP/1\.[01] (\d\d\d) ?[^\r]*\r\n", data)]


def message(data):
    return json.loads(data.split(b"\r\n\r\n", 1)[1])["message"]


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.48/_ping"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping(engine, method, path):
    status, headers, body = engine.http(method, path)
    assert (status, body) == (200, b"OK" if method == "GET" else b"")
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-length"] == ("2" if method == "GET" else "0")
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate" and headers["pragma"] == "no-cache"
    assert headers["docker-experimental"] == "false" and headers["ostype"] == "linux"
    assert headers["swarm"] == "inactive" and headers["builder-version"] in ("1", "2")
    assert headers["server"].endswith("(linux)") and headers["date"].endswith("GMT")
    assert re.fullmatch(r"1\.\d+", headers["api-version"])


def test_keep_alive_and_pipelining(engine):
    three = get(b"/_ping") + get(b"/nosuch") + request(b"HEAD", b"/_ping") + get(b"/_ping")
    out, closed = send(engine, three)
    assert answers(out) == [200, 404, 200, 200] and not closed
    out, closed = send(engine, get(b"/_ping", HOST + CLOSE) + get(b"/_ping"))
    assert answers(out) == [200] and closed and b"Connection: close" in out
    out, closed = send(engine, request(b"GET", b"/_ping", b"", version=b"HTTP/1.0"))
    assert answers(out) == [200] and closed
    out, closed = send(engine, request(b"GET", b"/_ping", b"Connection: keep-alive\r\n", version=b"HTTP/1.0"))
    assert answers(out) == [200] and not closed
    out, closed = send(engine, request(b"GET", b"/events?until=1", b"", version=b"HTTP/1.0"))
    assert answers(out) == [200] and closed and b"chunked" not in out.lower()
    for path in (b"/_ping", b"/containers/json"):
        out, closed = send(engine, get(path), half_close=True)
        assert answers(out) == [200] and closed
    with engine.connect() as sock:
        for byte in get(b"/_ping"):
            sock.sendall(bytes([byte]))
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")


PATHS = [
    (b"GET", b"/nosuch", 404), (b"GET", b"/", 404), (b"GET", b"/v1.48", 404), (b"GET", b"/v1.48/nosuch", 404),
    (b"POST", b"/containers/json", 404), (b"PATCH", b"/containers/json", 404), (b"get", b"/_ping", 404),
    (b"HEAD", b"/info", 404), (b"OPTIONS", b"/containers/json", 200), (b"OPTIONS", b"/nosuch", 200),
    (b"OPTIONS", b"*", 200), (b"GET", b"//_ping", 301), (b"GET", b"/./_ping", 301), (b"GET", b"/a/../_ping", 301),
    (b"GET", b"/containers/%2e%2e/json", 301), (b"GET", b"/%5fping", 200), (b"GET", b"/_ping?a=%zz", 200),
    (b"GET", b"/containers/a%2Fb/json", 404), (b"GET", b"/containers/%zz/json", 400), (b"GET", b"/a b", 400),
    (b"GET", b"/containers/%ff/json", 404), (b"GET", b"/networks/", 200), (b"DELETE", b"/containers/", 400),
    (b"DELETE", b"/images/", 400), (b"DELETE", b"/volumes/", 404), (b"GET", b"http://other:1/_ping", 200),
    (b"GET", b"_ping", 400), (b"G@T", b"/_ping", 400), (b"GET", b"/v1.x/_ping", 404), (b"GET", b"/v2/_ping", 400),
    (b"GET", b"/v1.23/_ping", 400), (b"GET", b"/v1.99/_ping", 400), (b"GET", b"/v1.99/nosuch", 404),
    (b"GET", b"/v1/_ping", 400), (b"GET", b"/v99999999999999999999/_ping", 400),
    (b"GET", b"/containers/json?all=%zz", 400), (b"GET", b"/containers/json?a;b", 400),
    (b"GET", b"/containers/json?limit=x", 500), (b"GET", b"/containers/json?filters=x", 400),
    (b"GET", b"/containers/json?filters=%7B%22nosuch%22%3A%5B%221%22%5D%7D", 400), (b"GET", b"/info\x00", 400),
]


@pytest.mark.parametrize("method,path,status", PATHS)
def test_paths(engine, method, path, status):
    out, _ = send(engine, request(method, path, HOST + CLOSE))
    assert answers(out) == [status], out[:400]
    plain = path.startswith((b"/v1.23", b"/v1/")) or b"text/plain" in out
    if status >= 400 and method != b"HEAD" and not plain:
        assert b"Content-Type: application/json" in out and message(out)
        if status == 404 and b"Server:" not in out:
            assert message(out) == "page not found"


def test_redirects_keep_the_query(engine):
    status, headers, _ = engine.http("GET", "//v1.48//_ping?a=%20b&c")
    assert (status, headers["location"]) == (301, "/v1.48/_ping?a=%20b&c")


def test_version_gates(engine):
    _, headers, body = engine.http("GET", "/v1.23/version")
    newest = headers["api-version"]
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body == (b"client version 1.23 is too old. Minimum supported API version is 1.24, "
                    b"please upgrade your client to a newer version\n")
    status, document = engine.json("GET", "/v1.99/version")
    assert (status, document) == (
        400, {"message": f"client version 1.99 is too new. Maximum supported API version is {newest}"})


HEADS = [
    (b"", b"400 Bad Request: missing required Host header"), (b"Host:\r\n", b"200 OK"), (HOST + HOST, b"400 Bad Request"),
    (b"Host: /var/run/docker.sock\r\n", b"400 Bad Request: malformed Host header"),
    (HOST + b"Foo\r\n", b"400 Bad Request"), (HOST + b": a\r\n", b"400 Bad Request"),
    (HOST + b"A: a\0b\r\n", b"400 Bad Request"), (HOST + b"A: \xc3\xa9\r\n", b"200 OK"),
    (HOST + b"".join(b"A%d: x\r\n" % i for i in range(95)), b"200 OK"),
    (HOST + b"A: " + b"x" * 900_000 + b"\r\n", b"200 OK"),
    (HOST + b"A: " + b"x" * 2_000_000 + b"\r\n", b"431 Request Header Fields Too Large"),
    (HOST + b"Authorization: Basic xx\r\nX-Registry-Auth: !!!\r\nOrigin: http://evil\r\n", b"200 OK"),
    (HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", b"200 OK"),
    (HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"200 OK"),
]


@pytest.mark.parametrize("head,want", HEADS, ids=lambda v: repr(v[:40]))
def test_heads(engine, head, want):
    out, _ = send(engine, get(b"/_ping", head + (b"" if b"Upgrade" in head else CLOSE)), 0.3)
    assert out.split(b"\r\n")[0].endswith(b" " + want), out[:300]
    assert b"access-control" not in out.lower()


def test_no_compression(engine):
    _, headers, body = engine.http("GET", "/version", headers={"Accept-Encoding": "gzip", "Accept": "text/html"})
    assert "content-encoding" not in headers and json.loads(body)


def chunks(*pieces, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + end


BODIES = [
    (CHUNKED, chunks(NO_IMAGE), [404, 200]), (CHUNKED, chunks(NO_IMAGE[:5], NO_IMAGE[5:]), [404, 200]),
    (CHUNKED, b"12;a=b\r\n" + NO_IMAGE + b"\r\n0\r\n\r\n", [404, 200]),
    (CHUNKED + b"Trailer: X\r\n", chunks(NO_IMAGE, end=b"0\r\nX: y\r\n\r\n"), [404, 200]),
    (CHUNKED, b"zz\r\n" + NO_IMAGE, [400]), (CHUNKED, b"fffffffffffffffff\r\n" + NO_IMAGE, [400]),
    (CHUNKED, b"-1\r\n" + NO_IMAGE, [400]), (b"Transfer-Encoding: gzip\r\n", NO_IMAGE, None),
    (b"Transfer-Encoding: gzip, chunked\r\n", chunks(NO_IMAGE), [501]), (CHUNKED + CHUNKED, chunks(NO_IMAGE), [501]),
    (b"Content-Length: x\r\n", NO_IMAGE, [400]), (b"Content-Length: -1\r\n", NO_IMAGE, [400]),
    (b"Content-Length: 18\r\nContent-Length: 5\r\n", NO_IMAGE, [400]),
    (b"Content-Length: 99999999999999999999\r\n", NO_IMAGE, [400]),
    (b"Content-Length: 18\r\nContent-Length: 18\r\n", NO_IMAGE, [404, 200]),
    (b"Expect: 100-continue\r\nContent-Length: 18\r\n", NO_IMAGE, [100, 404, 200]),
    (b"Expect: nonsense\r\nContent-Length: 18\r\n", NO_IMAGE, [417]),
]


@pytest.mark.parametrize("head,body,want", BODIES, ids=lambda v: repr(v)[:40])
def test_bodies(engine, head, body, want):
    """A body, then another request on the same connection: it must not be read as part of the body, nor the reverse."""
    last = get(b"/_ping", HOST + CLOSE)
    out, closed = send(engine, request(b"POST", CREATE, HOST + JSON + head, body) + last)
    if want is None:
        assert answers(out)[0] in (400, 501) and len(answers(out)) == 1 and closed
        return
    assert answers(out) == want, out
    assert closed


def test_length_and_chunks_are_no_smuggling(engine):
    both = request(b"POST", CREATE, HOST + JSON + b"Content-Length: 18\r\n" + CHUNKED, chunks(NO_IMAGE))
    out, _ = send(engine, both + get(b"/_ping", HOST + CLOSE))
    assert answers(out)[0] == 404 and answers(out) in ([404], [404, 200])


@pytest.mark.parametrize("cut", [b"Content-Length: 50\r\n", CHUNKED])
def test_a_cut_body_is_an_error(engine, cut):
    body = b"12\r\n{" if cut == CHUNKED else b"{"
    out, closed = send(engine, request(b"POST", CREATE, HOST + JSON + cut, body), half_close=True)
    assert answers(out) == [400] and message(out) == "invalid JSON: unexpected EOF" and closed


def test_unread_bodies(engine):
    out, closed = send(engine, post(b"/nosuch", b"x" * 100_000) + get(b"/_ping"))
    assert answers(out) == [404, 200] and not closed
    out, closed = send(engine, post(b"/nosuch", b"x" * 3_000_000))
    assert answers(out) == [404] and closed and b"Connection: close" in out
    out, _ = send(engine, request(b"POST", b"/nosuch", HOST + b"Expect: 100-continue\r\nContent-Length: 9\r\n"))
    assert answers(out) == [404]


CONTENT_TYPES = [
    (b"Content-Type: application/json; charset=utf-8\r\n", None), (b"Content-Type: APPLICATION/JSON\r\n", None),
    (b"", "malformed Content-Type header (): mime: no media type"),
    (b"Content-Type: text/plain\r\n", "unsupported Content-Type header (text/plain): must be 'application/json'"),
    (b"Content-Type: ;;;\r\n", "malformed Content-Type header (;;;): mime: no media type"),
    (b"Content-Type: application/json; charset\r\n",
     "malformed Content-Type header (application/json; charset): mime: invalid media parameter"),
]


@pytest.mark.parametrize("head,want", CONTENT_TYPES, ids=lambda v: repr(v)[:50])
def test_content_types(engine, head, want):
    out, _ = send(engine, post(CREATE, NO_IMAGE, head + CLOSE))
    assert (answers(out), message(out)) == (([404], "No such image: nosuch:latest") if want is None else ([400], want))


DOCUMENTS = [
    (b"", "got EOF while reading request body"), (b"{", "unexpected EOF"),
    (b"x", "invalid character 'x' looking for beginning of value"),
    (b'{"Image":"a",}', "invalid character '}' looking for beginning of object key string"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
    (b"[]", "json: cannot unmarshal array into Go value of type container.CreateRequest"),
    (b'{"Image":3}', "json: cannot unmarshal number into Go struct field .Image of type string"),
    (b'{"HostConfig":{"Memory":1.5}}',
     "json: cannot unmarshal number 1.5 into Go struct field .HostConfig.Memory of type int64"),
    (b'{"Labels":{"a":1}}', "json: cannot unmarshal number into Go struct field .Labels.a of type string"),
    (b"[" * 20_000, "exceeded max depth"),
]


@pytest.mark.parametrize("document,want", DOCUMENTS, ids=lambda v: repr(v)[:40])
def test_documents_that_are_wrong(engine, document, want):
    out, _ = send(engine, post(CREATE, document, JSON + CLOSE))
    assert (answers(out), message(out)) == ([400], "invalid JSON: " + want)


@pytest.mark.parametrize("document", [
    b'{"image":"nosuch"}', b'{"IMAGE":"nosuch"}', b'{"Image":"other","Image":"nosuch"}', NO_IMAGE + b"\n \n",
    b'{"Image":"nosuch","NoSuch":[1]}', b'{"Image":"nosuch","Env":null,"HostConfig":null}', b'{"Image":"nosuch\\u003alatest"}'])
def test_documents_that_go_accepts(engine, document):
    out, _ = send(engine, post(CREATE, document, JSON + CLOSE))
    assert (answers(out), message(out)) == ([404], "No such image: nosuch:latest")


def test_many_idle_connections(engine):
    count = 1000
    fds = None if engine.external else engine.debug()["open_fds"]
    socks = [engine.connect() for _ in range(count)]
    for sock in socks[::10]:
        sock.sendall(get(b"/_ping"))
    for sock in socks[::10]:
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert engine.http("GET", "/_ping")[0] == 200
    for sock in socks:
        sock.close()
    if fds is not None:
        wait_for(lambda: engine.debug()["open_fds"] <= fds + 5, "the descriptors are back", 20)


@pytest.mark.gantry
def test_hang_ups_leave_nothing(engine):
    before = engine.debug()
    half = [get(b"/_ping")[:-9], post(CREATE, NO_IMAGE)[:-5], get(b"/events"), get(b"/images/json"),
            request(b"POST", b"/images/load", HOST + CHUNKED, b"5\r\nhello\r\n")]
    for data in half * 20:
        with engine.connect() as sock:
            sock.sendall(data)
    def settled():
        now = engine.debug()
        same = now["open_fds"] <= before["open_fds"] + 2
        return same and sum(s["tasks_alive"] for s in now["shards"]) <= sum(s["tasks_alive"] for s in before["shards"]) + 2
    wait_for(settled, "descriptors and tasks are as before", 20)


@pytest.mark.gantry
def test_slow_uploads_do_not_stop_others(engine):
    socks = [engine.connect() for _ in range(80)]  # more than there are threads for
    try:
        for sock in socks:
            sock.sendall(request(b"POST", b"/images/load", HOST + b"Content-Length: 100000\r\n", b"x" * 10))
        assert engine.ok("run", "--rm", "--network", "none", "busybox", "echo", "on") == "on"
        told, waiting = set(), list(socks)
        while b"503" not in told:
            ready = select.select(waiting, [], [], 5)[0]
            assert ready, f"one too many is told so: {told}"
            told |= {sock.recv(4096)[9:12] for sock in ready}
            waiting = [sock for sock in waiting if sock not in ready]
        assert told == {b"200", b"503"}
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.gantry
def test_sessions_and_unbuilt_upgrades_are_refused(engine):
    upgrade = {"Connection": "Upgrade", "Upgrade": "h2c"}
    for path in ("/session", "/grpc"):
        status, document = engine.json("POST", path, headers=upgrade)
        assert status == 501 and path.strip("/").capitalize() in document["message"]
    out, closed = send(engine, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    assert not out.startswith(b"HTTP/1.1 2") and closed


@pytest.mark.gantry
def test_every_operation_answers(engine):
    """Each row of the API's table is reached: built ones answer, the others say their name with 501."""
    table = (REPO / "crates/api/data/operations-v1.48.txt").read_text().splitlines()
    assert len(table) == 107
    unbuilt = set()
    for line in table:
        method, path, name = line.split(" ")
        path = path.replace("{id}", "nosuch").replace("{name}", "nosuch")
        if name in ("SystemEvents",):
            path += "?until=1"
        status, headers, body = engine.http(method, "/v1.48" + path, timeout=20)
        if name == "ContainerAttach":  # refused on the stream it asked for, as dockerd does
            assert status == 404 and b"No such container" in body
            continue
        assert headers.get("api-version") == "1.48", (line, status)
        if status == 501:
            unbuilt.add(name)
            assert method == "HEAD" or name in json.loads(body)["message"], line
        elif status >= 400 and method != "HEAD":
            assert headers["content-type"] == "application/json" and list(json.loads(body)) == ["message"], line
        assert status not in (301, 405) and (status != 500 or b"dial tcp" in body), (line, status, body)
    assert {"SystemPing", "ContainerList", "ImageList", "NetworkList", "VolumeList"}.isdisjoint(unbuilt)


@pytest.mark.gantry
def test_tcp_listener(workdir, image_tar):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    eng = Daemon(workdir / "tcp", ["-H", f"tcp://127.0.0.1:{port}"])
    eng.start()
    unix = eng.host
    try:
        eng.ok("load", "-i", str(image_tar))
        eng.host = f"tcp://127.0.0.1:{port}"
        assert eng.ok("run", "--rm", "--network", "none", "busybox", "echo", "tcp") == "tcp"
        done = eng.cli("run", "-i", "--rm", "--network", "none", "busybox", "cat", input="through\n")
        assert done.stdout == "through\n"
        client = docker.DockerClient(eng.host)
        assert client.ping() and client.info()["ID"]
        client.close()
    finally:
        eng.host = unix
        eng.stop()


def test_disk_usage(engine):
    engine.ok("create", "--name", "du", "--network", "none", "busybox", "true")
    status, usage = engine.json("GET", "/system/df")
    assert status == 200 and usage["Volumes"] == [] and usage["BuildCache"] == []
    image = next(i for i in usage["Images"] if "busybox:latest" in i["RepoTags"])
    assert image["Containers"] == 1 and 0 <= image["SharedSize"] <= image["Size"] <= usage["LayersSize"]
    container = next(c for c in usage["Containers"] if c["Names"] == ["/du"])
    assert container["SizeRootFs"] >= image["Size"]
    status, usage = engine.json("GET", "/system/df?type=volume&type=image")
    assert usage["Containers"] is None and usage["BuildCache"] is None and usage["Volumes"] == [] and usage["Images"]
    assert engine.json("GET", "/system/df?type=x") == (400, {"message": "unknown object type: x"})
    lines = {line.split()[0]: line.split() for line in engine.ok("system", "df").splitlines()}
    assert lines["Images"][1:3] == [str(len(usage["Images"])), "1"] and lines["Containers"][1:3] == ["1", "0"]


def test_docker_py_system(engine):
    client = docker.DockerClient(engine.host)
    assert client.ping() is True
    version, info, usage = client.version(), client.info(), client.df()
    assert version["Os"] == "linux" and version["ApiVersion"] and version["Components"][0]["Name"] == "Engine"
    assert info["OSType"] == "linux" and info["ServerVersion"] == version["Version"]
    assert {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"} <= usage.keys()
    client.close()


def test_concurrent_clients_of_one_connection_pool(engine):
    """docker-py keeps connections: their answers never get mixed up."""
    client = docker.DockerClient(engine.host)
    wrong = []

    def ask(n):
        for i in range(20):
            name = f"nosuch-{n}-{i}"
            try:
                client.containers.get(name)
            except docker.errors.NotFound as error:
                if name not in str(error):
                    wrong.append(str(error))
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert wrong == []


def test_names_are_found_escaped(engine):
    engine.ok("create", "--name", "esc-1", "--network", "none", "busybox", "true")
    for form in ("esc-1", "esc%2D1", "%65sc-1"):
        status, document = engine.json("GET", "/containers/" + urllib.parse.quote(form, safe="%") + "/json")
        assert (status, document["Name"]) == (200, "/esc-1"), form
