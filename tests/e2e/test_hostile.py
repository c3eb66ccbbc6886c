"""Hostile input: mutated requests and image archives that lie."""
import gzip
import io
import json
import os
import random
import socket
import struct
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor

import leaks
import mkimage
import pytest
from conftest import FULL

REQUESTS = 10_000 if FULL else 1_500
SEED = int(os.environ.get("GANTRY_SEED", "20240101"))
READ_TIMEOUT_S = 1.0

JSON_BODY = json.dumps({"Image": "busybox", "Cmd": ["true"], "Env": ["A=b"], "Tty": False, "Labels": {"a": "b"},
                        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "StopTimeout": 3,
                        "HostConfig": {"Memory": 67108864, "NetworkMode": "none", "CapDrop": ["ALL"],
                                       "Tmpfs": {"/t": "size=1m"}, "Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 9}],
                                       "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}}}).encode()
GETS = ["/_ping", "/version", "/info", "/containers/json?all=1&filters=%7B%22status%22%3A%5B%22running%22%5D%7D",
        "/containers/idle/json", "/containers/idle/logs?stdout=1&since=1.5&tail=3&timestamps=1",
        "/containers/idle/top?ps_args=-ef", "/images/json?all=1", "/images/busybox/json", "/images/busybox/history",
        "/events?since=0&until=1&filters=%7B%22type%22%3A%7B%22container%22%3Atrue%7D%7D", "/networks", "/volumes",
        "/gantry/debug", "/containers/idle/stats?stream=0", "/containers/idle/archive?path=/etc/passwd"]
POSTS = ["/containers/create?name=m", "/containers/idle/resize?h=10&w=20", "/containers/idle/kill?signal=URG",
         "/containers/idle/rename?name=idle", "/images/busybox/tag?repo=x&tag=y", "/containers/nosuch/start",
         "/containers/idle/attach?stream=0&stdout=1", "/containers/nosuch/wait?condition=removed",
         "/containers/idle/exec", "/images/load?quiet=1", "/images/create?fromSrc=-&repo=z"]


def seeds():
    head = b"Host: d\r\nUser-Agent: mutant\r\n"
    out = [b"GET /v1.48%s HTTP/1.1\r\n%s\r\n" % (p.encode(), head) for p in GETS]
    for path in POSTS:
        out.append(b"POST /v1.48%s HTTP/1.1\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                   % (path.encode(), head, len(JSON_BODY), JSON_BODY))
        out.append(b"POST %s HTTP/1.1\r\n%sContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                   b"%x\r\n%s\r\n0\r\n\r\n" % (path.encode(), head, len(JSON_BODY), JSON_BODY))
    return out


BITS = [b"\0", b"\r\n", b"\r\n\r\n", b"%00", b"%2e%2e%2f", b"../" * 40, b"A" * 9000, b"-1", b"18446744073709551616",
        b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"{" * 2000, b"[" * 9000, b"\xff\xfe\xfd", b"null",
        b"Expect: 100-continue\r\n", b"Upgrade: tcp\r\nConnection: Upgrade\r\n", b"Connection: close\r\n", b"%", b"?",
        b"9223372036854775807", b"1e400", b'"', b"\\ud800", b"ffffffffffffffff\r\n", b";ext=1", b"*", b"://"]


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(data) + 1), rng.randrange(6)
        if what == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif what == 1:
            del data[at:at + rng.randint(1, 60)]
        elif what == 2:
            data[at:at] = rng.choice(BITS)
        elif what == 3:
            data[at:at + 4] = rng.choice(BITS)
        elif what == 4:
            del data[at:]
        else:
            data += data[at:at + 200]
    return bytes(data)


def throw(eng, data, server_errors):
    """Send one mutant; what comes back must be HTTP, nothing, or a closed connection."""
    with eng.connect(READ_TIMEOUT_S) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(65536)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return None
    assert answer == b"" or answer.startswith(b"HTTP/1.") or data.startswith((b"GET", b"POST")), answer[:200]
    if answer[9:12] == b"500":
        server_errors.append((data[:400], answer[-300:]))
    return answer[9:12] if answer else b""


@pytest.mark.gantry
def test_mutated_requests_change_nothing(private_daemon):
    eng = private_daemon
    eng.ok("run", "-d", "--name", "idle", "--network", "none", "busybox", "sleep", "3600")
    rng, pool_of = random.Random(SEED), seeds()
    for data in pool_of:
        throw(eng, data, [])

    def tidy():
        ids = [c["Id"] for c in eng.json("GET", "/containers/json?all=1")[1] if c["State"] != "running"]
        for cid in ids:
            eng.http("DELETE", f"/containers/{cid}?force=1")
    tidy()
    before = leaks.settled(eng)
    pid, seen, server_errors = eng.pid, {}, []
    with ThreadPoolExecutor(8) as pool:
        for status in pool.map(lambda d: throw(eng, d, server_errors), [mutate(rng, rng.choice(pool_of)) for _ in range(REQUESTS)]):
            seen[status] = seen.get(status, 0) + 1
    assert eng.alive() and eng.pid == pid
    tidy()
    for image in eng.json("GET", "/images/json?all=1")[1]:
        for tag in image["RepoTags"] or [image["Id"]]:
            if tag != "busybox:latest":
                eng.http("DELETE", f"/images/{tag}?force=1")
    after = {"fds", "threads", "tasks", "processes", "mounts", "cgroups", "netns"}
    leaks.assert_no_growth(eng, {k: v if k in after else leaks.collections.Counter() for k, v in before.items()}
                           | {k: leaks.snapshot(eng)[k] for k in before if k not in after})
    assert eng.ok("run", "--rm", "busybox", "echo", "alive") == "alive"
    assert not server_errors, f"mutants made 500s: {server_errors[:5]} of {seen} (seed {SEED})"
    assert "panicked" not in eng.log_path.read_text(errors="replace")


@pytest.fixture
def outside(tmp_path):
    """A directory of the host that no archive may reach."""
    path = f"/var/tmp/gantry-outside-{uuid.uuid4().hex}"
    os.mkdir(path)
    with open(f"{path}/secret", "w") as f:
        f.write("host secret")
    yield path
    for name in os.listdir(path):
        os.unlink(f"{path}/{name}")
    os.rmdir(path)


e = mkimage.entry


def raw_header(name, size_field, typeflag=b"0", data=b""):
    """A ustar header with a size field of our own."""
    block = bytearray(512)
    block[0:len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:124 + len(size_field)] = size_field
    block[136:148], block[148:156], block[156:157] = b"00000000000\0", b" " * 8, typeflag
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + b"\0" * (-len(data) % 512)


def pax_size(value):
    record = b" size=%s\n" % value
    length = len(record) + len(str(len(record) + 2))
    record = b"%d%s" % (length, record)
    return raw_header(b"PaxHeader", b"%011o\0" % len(record), b"x", record) + \
        raw_header(b"evil", b"00000000005\0", b"0", b"hello") + b"\0" * 1024


def escapes(out):
    up = "../" * 30 + out.lstrip("/")
    return {
        "dotdot": [e(up + "/esc", data=b"x")],
        "dotdot-inside": [e("bin/../" + up + "/esc", data=b"x")],
        "absolute": [e(out + "/esc", data=b"x")],
        "symlink-absolute": [e("lnk", tarfile.SYMTYPE, link=out), e("lnk/esc", data=b"x")],
        "symlink-up": [e("lnk", tarfile.SYMTYPE, link=up), e("lnk/esc", data=b"x")],
        "symlink-chain": [e("a", tarfile.SYMTYPE, link="b"), e("b", tarfile.SYMTYPE, link=up), e("a/esc", data=b"x")],
        "symlink-then-file": [e("f", tarfile.SYMTYPE, link=out + "/esc"), e("f", data=b"x")],
        "symlink-proc": [e("p", tarfile.SYMTYPE, link="/proc/1/root"), e("p" + out + "/esc", data=b"x")],
        "hardlink-absolute": [e("hl", tarfile.LNKTYPE, link=out + "/secret")],
        "hardlink-up": [e("hl", tarfile.LNKTYPE, link=up + "/secret")],
        "hardlink-through-symlink": [e("lnk", tarfile.SYMTYPE, link=out), e("hl", tarfile.LNKTYPE, link="lnk/secret")],
        "whiteout-up": [e(".wh...", data=b""), e("x/.wh..", data=b""), e("../.wh." + os.path.basename(out), data=b"")],
        "whiteout-through-symlink": [e("lnk", tarfile.SYMTYPE, link=out), e("lnk/.wh.secret", data=b"")],
        "opaque-through-symlink": [e("lnk", tarfile.SYMTYPE, link=out), e("lnk/.wh..wh..opq", data=b"")],
        "pax-path": [e("ok", data=b"x", pax_headers={"path": up + "/esc"})],
        "pax-linkpath": [e("hl", tarfile.LNKTYPE, link="ok", pax_headers={"linkpath": up + "/secret"})],
        "dir-over-symlink": [e("lnk", tarfile.SYMTYPE, link=out), e("lnk", tarfile.DIRTYPE, 0o777), e("lnk/esc", data=b"")],
        "dot": [e(".", tarfile.SYMTYPE, link=out), e("./esc", data=b"x")],
        "empty-name": [e("", data=b"x"), e("/", data=b"x")],
    }


@pytest.mark.gantry
@pytest.mark.parametrize("name", sorted(escapes("/x")))
def test_layers_stay_inside(engine, base_layer, outside, tmp_path, name):
    layer = mkimage.tar_bytes(escapes(outside)[name])
    path = tmp_path / "evil.tar"
    path.write_bytes(mkimage.docker_archive("evil:1", [base_layer, layer]))
    done = engine.cli("load", "-i", str(path))
    if done.returncode == 0:
        out = engine.cli("run", "--rm", "evil:1", "sh", "-c", "cat /hl 2>/dev/null; true")
        assert "host secret" not in out.stdout
        engine.ok("rmi", "-f", "evil:1")
    assert os.listdir(outside) == ["secret"]
    assert os.stat(f"{outside}/secret").st_nlink == 1
    with open(f"{outside}/secret") as f:
        assert f.read() == "host secret"


@pytest.mark.gantry
def test_device_nodes_of_an_image_are_useless(engine, base_layer, tmp_path):
    dev = os.stat("/").st_dev
    info, _ = e("rootdisk", tarfile.BLKTYPE, 0o666)
    info.devmajor, info.devminor = os.major(dev), os.minor(dev)
    path = tmp_path / "dev.tar"
    path.write_bytes(mkimage.docker_archive("dev:1", [base_layer, mkimage.tar_bytes([(info, None)])]))
    if engine.cli("load", "-i", str(path)).returncode == 0:
        done = engine.cli("run", "--rm", "dev:1", "head", "-c", "1", "/rootdisk")
        assert done.returncode != 0 and done.stdout == ""
        engine.ok("rmi", "-f", "dev:1")


def lies(base):
    layer_sha = mkimage.sha256(base)
    config = mkimage.image_config([base])
    other = mkimage.image_config([base + b"\0" * 512])
    sizes = {f"pax-size-{v.decode()[:12]}": pax_size(v) for v in
             (b"-1", b"99999999999999999999", b"9223372036854775807", b"0x10", b"1e3")}
    plain = {"size-binary-huge": raw_header(b"evil", b"\x80" + b"\xff" * 11) + b"\0" * 1024,
             "size-negative": raw_header(b"evil", b"\xff" * 12) + b"\0" * 1024,
             "truncated": base[:len(base) // 2 + 100],
             "longname-huge": raw_header(b"././@LongLink", b"77777777777\0", b"L") + b"a" * 512,
             "noise": random.Random(1).randbytes(4096)}
    out = {k: mkimage.docker_archive("lie:1", [v]) for k, v in (sizes | plain).items()}
    out["diff-id-of-another-layer"] = mkimage.docker_archive("lie:1", [base], other)
    out["more-layers-than-diff-ids"] = mkimage.docker_archive("lie:1", [base, base], config)
    out["gzip-truncated"] = mkimage.tar_bytes([
        e("c.json", data=config), e("l.tar", data=gzip.compress(base)[:-20]),
        e("manifest.json", data=json.dumps([{"Config": "c.json", "RepoTags": ["lie:1"], "Layers": ["l.tar"]}]).encode())])
    for name, target in (("absolute", "/etc/passwd"), ("up", "../" * 20 + "etc/passwd"), ("missing", "no.tar")):
        for field in ("Config", "Layers"):
            doc = {"Config": "c.json", "RepoTags": ["lie:1"], "Layers": ["l.tar"]}
            doc[field] = target if field == "Config" else [target]
            out[f"manifest-{field}-{name}"] = mkimage.tar_bytes([
                e("c.json", data=config), e("l.tar", data=base), e("manifest.json", data=json.dumps([doc]).encode())])
    for field, target in (("l.tar", "/etc/passwd"), ("c.json", "/etc/passwd"), ("manifest.json", "/etc/passwd")):
        members = {"c.json": e("c.json", data=config), "l.tar": e("l.tar", data=base),
                   "manifest.json": e("manifest.json", data=json.dumps(
                       [{"Config": "c.json", "RepoTags": ["lie:1"], "Layers": ["l.tar"]}]).encode())}
        members[field] = e(field, tarfile.SYMTYPE, link=target)
        out[f"member-{field}-is-a-symlink"] = mkimage.tar_bytes(members.values())
    good = mkimage.oci_archive("lie:1", [base])
    out["oci-blob-of-another-digest"] = good.replace(b"layer 0 of mkimage", b"layer 1 of mkimage")
    for name, doc in (("deep", b"[" * 100_000), ("number", b"5"), ("null", b"null"), ("text", b"nonsense"),
                      ("empty-list", b"[]"), ("wrong-types", b'[{"Config": 5, "Layers": {}}]')):
        out[f"manifest-{name}"] = mkimage.tar_bytes([e("manifest.json", data=doc)])
    many = {"Config": "c.json", "RepoTags": ["lie:1"], "Layers": []}
    out["600-layers"] = mkimage.docker_archive("lie:1", [base], config.replace(b'"diff_ids": [', b'"diff_ids": [' + b'"sha256:%s",' % (
        b"a" * 64) * 600))
    out["2000-images"] = mkimage.tar_bytes([e("c.json", data=config), e("manifest.json", data=json.dumps([many] * 2000).encode())])
    out["sparse"] = mkimage.docker_archive("lie:1", [raw_header(b"evil", b"00000000000\0", b"S") + b"\0" * 1024])
    out["name-without-tag"] = mkimage.docker_archive("lie", [base])
    out["name-with-digest"] = mkimage.docker_archive("lie@sha256:" + "a" * 64, [base])
    out["windows"] = mkimage.docker_archive("lie:1", [base], config.replace(b'"linux"', b'"windows"'))
    out["no-rootfs"] = mkimage.docker_archive("lie:1", [], b'{"os": "linux"}')
    out["bad-tag"] = mkimage.docker_archive("UPPER CASE:::", [base])
    out["empty"], out["zeros"], out["not-a-tar"] = b"", b"\0" * 10240, b"hello world"
    assert layer_sha
    return out


LIES = lies(mkimage.tar_bytes([e("f", data=b"x" * 20_000)]))


@pytest.mark.gantry
@pytest.mark.parametrize("name", sorted(LIES))
def test_archives_that_lie_are_refused(engine, name):
    """A clear error or no image; never a 500, a crash, or a file of the host."""
    images = engine.json("GET", "/images/json?all=1")[1]
    status, _, body = engine.http("POST", "/images/load", LIES[name], {"Content-Type": "application/x-tar"})
    assert status in (200, 400, 404), (status, body)
    refused = status != 200 or b'"errorDetail"' in body or b"Loaded image" not in body
    assert refused, body
    assert b"root:x:0:0" not in body
    assert engine.json("GET", "/images/json?all=1")[1] == images
    assert engine.alive()
    assert engine.ok("run", "--rm", "busybox", "true") == ""


@pytest.mark.gantry
def test_slow_and_silent_clients_do_not_stop_others(engine):
    slow = []
    for data in (b"", b"GET /_ping HTTP/1.1\r\n", b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: "
                 b"application/json\r\nContent-Length: 1000\r\n\r\n{", struct.pack("<I", 7) * 100):
        for _ in range(25):
            sock = engine.connect()
            sock.sendall(data)
            slow.append(sock)
    assert engine.ok("run", "--rm", "busybox", "echo", "on") == "on"
    for sock in slow:
        sock.close()


def test_import_of_noise_is_refused(engine):
    noise = io.BytesIO(random.Random(2).randbytes(100_000)).getvalue()
    status, _, body = engine.http("POST", "/images/create?fromSrc=-&repo=noise", noise,
                                  {"Content-Type": "application/x-tar"})
    assert status >= 400 or b"error" in body
