"""`docker cp`: what lies at a path, out of a container and into it. Expectations are dockerd 28's (GANTRY_TEST_HOST)."""
import base64
import gzip
import io
import json
import os
import subprocess
import tarfile
import threading
import urllib.parse

import pytest
from engine import wait_for

DIR, SYM, HARD, FIFO, CHAR = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE
TREE = ("mkdir -p /d/e /d/full/x; echo hi >/d/f; ln /d/f /d/hard; ln -s f /d/l; ln -s /d/f /d/al; ln -s nowhere /d/dang;"
        "ln -s ../../../../etc /d/up; ln -s d /dl; mkfifo /d/fifo; chown 7:8 /d/f; chmod 4755 /d/f; chmod 1777 /d/e;"
        "echo x >/vol/inv; touch /ready; exec sleep 10000")


def archive(eng, method, box, path=None, body=None, **query):
    if path is not None:
        query["path"] = path
    headers = {} if body is None else {"Content-Type": "application/x-tar", "Content-Length": str(len(body))}
    status, head, data = eng.http(method, f"/v1.48/containers/{box}/archive?{urllib.parse.urlencode(query)}", body,
                                  headers=headers)
    stat = head.get("x-docker-container-path-stat")
    return status, stat and json.loads(base64.b64decode(stat)), data


def tar(*items):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, data, *attributes in items:
            info = tarfile.TarInfo(name)
            for key, value in (attributes[0] if attributes else {}).items():
                setattr(info, key, value)
            if isinstance(data, bytes):
                info.size = len(data)
            t.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        return {m.name: m for m in t}


def content(eng, box, path):
    """As a client reads it; not by an exec, which a dockerd in a chroot answers from another root."""
    with tarfile.open(fileobj=io.BytesIO(archive(eng, "GET", box, path)[2])) as t:
        return t.extractfile(t.next()).read()


def message(data):
    return json.loads(data)["message"]


@pytest.fixture
def box(engine):
    engine.ok("volume", "create", "copied")
    engine.ok("run", "-d", "--name", "box", "-v", "copied:/vol", "-v", "copied:/rovol:ro", "busybox", "sh", "-c", TREE)
    wait_for(lambda: archive(engine, "HEAD", "box", "/ready")[0] == 200, "the tree is there")
    yield "box"
    engine.cli("rm", "-f", "box")
    engine.ok("volume", "rm", "copied")


def states(eng, box):
    """The container as it runs, paused, and ended."""
    yield "running"
    eng.ok("pause", box)
    yield "paused"
    eng.ok("unpause", box)
    eng.ok("kill", box)
    eng.ok("wait", box)
    yield "ended"


def test_what_lies_at_a_path(engine, box):
    known = {
        "/d/f": ("f", 3, 0o755 | 1 << 23, ""), "//d//f": ("f", 3, 0o755 | 1 << 23, ""),
        "d": ("d", None, 0o755 | 1 << 31, ""), "/d/.": (".", None, 0o755 | 1 << 31, ""),
        "/d/e/..": ("..", None, 0o755 | 1 << 31, ""), "/../../d": ("d", None, 0o755 | 1 << 31, ""),
        "/d/e": ("e", None, 0o777 | 1 << 31 | 1 << 20, ""), "/": ("/", None, 0o755 | 1 << 31, ""),
        "/d/l": ("l", 1, 0o777 | 1 << 27, "/d/f"), "/d/al": ("al", 4, 0o777 | 1 << 27, "/d/f"),
        "/d/dang": ("dang", 7, 0o777 | 1 << 27, "/d/nowhere"), "/d/up": ("up", 15, 0o777 | 1 << 27, "/etc"),
        "/d/up/": ("up", None, 0o755 | 1 << 31, ""), "/dl": ("dl", 1, 0o777 | 1 << 27, "/d"),
        "/dl/f": ("f", 3, 0o755 | 1 << 23, ""), "/d/fifo": ("fifo", 0, 0o644 | 1 << 25, ""),
        "/vol/inv": ("inv", 2, 0o644, ""), "/d/up/passwd": ("passwd", 155, 0o644, ""),
    }
    missing = {"/nothere": 404, "nothere": 404, "/d/dang/": 404, "/proc/self": 404,
               "/d/f/": 500, "/d/l/": 500, "/d/f/x": 500}
    for state in states(engine, box):
        for path, (name, size, mode, target) in known.items():
            status, stat, _ = archive(engine, "HEAD", box, path)
            assert status == 200, (state, path)
            assert (stat["name"], stat["mode"], stat["linkTarget"]) == (name, mode, target), (state, path)
            assert size in (None, stat["size"]), (state, path)
        for path, code in missing.items():
            assert archive(engine, "HEAD", box, path)[0] == code, (state, path)
            status, _, data = archive(engine, "GET", box, path)
            text = f"Could not find the file {path} in container {box}" if code == 404 else f"lstat {path}: not a directory"
            assert (status, message(data)) == (code, text), state
    for path in ("", None):
        status, _, data = archive(engine, "GET", box, path)
        assert (status, message(data)) == (400, "bad parameter: pathcannot be empty")
    status, _, data = archive(engine, "GET", "nobody", "/")
    assert (status, message(data)) == (404, "No such container: nobody")


def test_out_of_a_container(engine, box):
    for state in states(engine, box):
        status, stat, data = archive(engine, "GET", box, "/dl/")
        assert (status, stat["name"]) == (200, "dl"), state
        got = members(data)
        assert list(got) == [f"dl{n}" for n in ("", "/al", "/dang", "/e", "/f", "/fifo", "/full", "/full/x", "/hard", "/l",
                                                 "/up")], state
        file = got["dl/f"]
        assert (file.mode, file.uid, file.gid, file.size, file.type) == (0o4755, 7, 8, 3, tarfile.REGTYPE)
        assert (got["dl/hard"].type, got["dl/hard"].linkname) == (HARD, "dl/f")
        assert (got["dl/up"].type, got["dl/up"].linkname) == (SYM, "../../../../etc")
        assert (got["dl/fifo"].type, got["dl/e"].mode) == (FIFO, 0o1777)
        assert list(members(archive(engine, "GET", box, "/d/full/.")[2])) == [".", "./x"]
        assert list(members(archive(engine, "GET", box, "/d/l")[2])) == ["l"]
        assert list(members(archive(engine, "GET", box, "/vol")[2])) == ["vol", "vol/inv"]
        root = members(archive(engine, "GET", box, "/")[2])
        assert {"/d/f", "/vol/inv", "/etc/passwd", "/proc"} <= set(root)
        assert not [n for n in root if n.startswith(("/proc/", "/sys/", "/dev/pts/"))], "nothing of the kernel's"
        assert archive(engine, "GET", box, "/d/e/..")[1]["name"] == "d"


def test_into_a_container(engine, box):
    file = ("new", b"data", {"mode": 0o640, "uid": 7, "gid": 8, "mtime": 10 ** 9})
    for number, state in enumerate(states(engine, box)):
        put = lambda path, *items, **query: archive(engine, "PUT", box, path, tar(*items), **query)  # noqa: E731
        assert put("/d/e", file)[::2] == (200, b""), state
        stat = members(archive(engine, "GET", box, "/d/e/new")[2])["new"]
        assert (stat.mode, stat.uid, stat.gid, stat.size, stat.mtime) == (0o640, 7, 8, 4, 10 ** 9)
        assert put("/dl/up", (f"n{number}", b"x"))[0] == 200
        assert archive(engine, "HEAD", box, f"/etc/n{number}")[0] == 200
        assert put("/vol", (f"v{number}", b"x"))[0] == 200
        seen = engine.ok("run", "--rm", "-v", "copied:/v", "busybox", "cat", f"/v/v{number}")
        assert seen == "x", "it is in the volume"
        for path, code, text in [
            ("/d/f", 400, "extraction point is not a directory"),
            ("/d/l", 400, "extraction point is not a directory"),
            ("/nothere", 404, "Could not find the file /nothere in container box"),
            ("/d/dang", 404, "Could not find the file /d/dang in container box"),
            ("/d/f/", 500, "lstat /d/f/: not a directory"),
            ("/rovol", 400, "mounted volume is marked read-only"),
        ]:
            status, _, data = put(path, file)
            assert (status, message(data)) == (code, text), (state, path)
        assert put("/vol/..", ("top", b"x"))[0] == 200
        assert put("/d", ("sl", None, {"type": SYM, "linkname": "/e"}), ("sl/through", b"x"))[0] == 200
        assert archive(engine, "HEAD", box, "/d/e/through")[0] == 200, "links lead as if the directory were the root"
        for item, text in [
            (("../out", b"x"), 'invalid entry name "../out"'),
            (("h", None, {"type": HARD, "linkname": "../../etc/passwd"}), 'invalid hardlink target "../../etc/passwd"'),
        ]:
            status, _, data = put("/d", item)
            assert status in (400, 500) and message(data) == text
        missing = ("h", None, {"type": HARD, "linkname": "nothere"})
        assert put("/d", missing)[0] == 404
        assert put("/d", ("deep/er/file", b"1"), ("null", None, {"type": CHAR, "devmajor": 1, "devminor": 3}))[0] == 200
        assert archive(engine, "HEAD", box, "/d/deep/er")[1]["mode"] == 0o755 | 1 << 31


def test_directories_and_files_in_each_others_place(engine, box):
    put = lambda item, **query: archive(engine, "PUT", box, "/d", tar(item), **query)  # noqa: E731
    as_dir, as_file = ("f", None, {"type": DIR, "mode": 0o711}), ("full", b"x")
    status, _, data = put(as_dir, noOverwriteDirNonDir="1")
    assert status in (400, 500) and message(data) == 'cannot overwrite non-directory "f" with directory "/d"'
    status, _, data = put(as_file, noOverwriteDirNonDir="true")
    assert status in (400, 500) and message(data) == 'cannot overwrite directory "full" with non-directory "/d"'
    assert put(("full", None, {"type": DIR, "mode": 0o711}), noOverwriteDirNonDir="1")[0] == 200
    assert archive(engine, "HEAD", box, "/d/full/x")[0] == 200, "merged"
    assert archive(engine, "HEAD", box, "/d/full")[1]["mode"] == 0o711 | 1 << 31
    assert put(as_dir)[0] == 200 and put(as_file)[0] == 200
    assert archive(engine, "HEAD", box, "/d/f")[1]["mode"] >> 31 == 1
    assert archive(engine, "HEAD", box, "/d/full")[1]["size"] == 1


def test_a_container_that_was_never_started(engine):
    engine.ok("create", "--name", "new", "--user", "5:6", "-v", "/declared", "busybox", "sleep", "1000")
    assert archive(engine, "PUT", "new", "/declared", tar(("in", b"volume")))[0] == 200
    assert archive(engine, "PUT", "new", "/", tar(("top", b"root")), copyUIDGID="1")[0] == 200
    top = members(archive(engine, "GET", "new", "/top")[2])["top"]
    assert (top.uid, top.gid) == (5, 6)
    assert archive(engine, "HEAD", "new", "/etc/hosts")[0] == 200
    engine.ok("start", "new")
    assert (content(engine, "new", "/declared/in"), content(engine, "new", "/top")) == (b"volume", b"root")
    engine.ok("rm", "-fv", "new")


def test_read_only_containers(engine):
    engine.ok("create", "--name", "ro", "--read-only", "-v", "/vol", "busybox", "sleep", "1000")
    for start in (False, True):
        if start:
            engine.ok("start", "ro")
        for path in ("/", "/etc", "/vol/.."):
            status, _, data = archive(engine, "PUT", "ro", path, tar(("x", b"x")))
            assert (status, message(data)) == (400, "container rootfs is marked read-only"), path
        assert archive(engine, "PUT", "ro", "/vol", tar((f"x{start}", b"x")))[0] == 200
        assert content(engine, "ro", f"/vol/x{start}") == b"x"


@pytest.mark.gantry
def test_mounts_of_the_host(engine, tmp_path):
    (tmp_path / "file").write_text("old")
    engine.ok("create", "--name", "bound", "-v", f"{tmp_path}:/bind:ro", "-v", f"{tmp_path}:/rw",
              "-v", f"{tmp_path}/file:/file", "busybox", "sleep", "1000")
    for start in (False, True):
        if start:
            engine.ok("start", "bound")
        status, _, data = archive(engine, "PUT", "bound", "/bind", tar(("x", b"x")))
        assert (status, message(data)) == (400, "mounted volume is marked read-only")
        assert archive(engine, "PUT", "bound", "/rw", tar((f"x{start}", b"x")))[0] == 200
        assert (tmp_path / f"x{start}").read_bytes() == b"x"
        assert content(engine, "bound", "/file") == b"old"
        status, _, data = archive(engine, "PUT", "bound", "/", tar(("file", b"new")))
        assert status == 500 and "busy" in message(data), data
        status, _, data = archive(engine, "PUT", "bound", "/", tar(("rw", b"new")))
        assert status == 500 and "busy" in message(data), data
        if start:
            assert engine.ok("exec", "bound", "cat", "/file") == "old"
        assert (tmp_path / "file").read_text() == "old"


def test_archives_that_are_none(engine, box):
    whole = tar(("z", b"zz"))
    for body in (b"garbage", b"x" * 2000, gzip.compress(whole)[:-20]):
        status, _, data = archive(engine, "PUT", box, "/d", body)
        assert status in (400, 500) and message(data), body[:20]
    assert archive(engine, "PUT", box, "/d", b"")[0] == 200
    if not engine.external:
        # dockerd takes one that ends in the padding of its last file.
        assert archive(engine, "PUT", box, "/d", whole[:514])[0] == 400
    for how in ("gzip", "bzip2", "xz", "zstd"):
        packed = subprocess.run([how, "-c"], input=tar((f"by-{how}", b"zz")), capture_output=True, check=True).stdout
        assert archive(engine, "PUT", box, "/d", packed)[0] == 200, how
        assert archive(engine, "HEAD", box, f"/d/by-{how}")[1]["size"] == 2


def test_the_cli_both_ways(engine, box, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    big = os.urandom(5 << 20)
    (source / "sub" / "big").write_bytes(big)
    (source / "link").symlink_to("sub/big")
    engine.ok("cp", str(source), "box:/vol")
    engine.ok("cp", "-L", str(source / "link"), "box:/d/e/")
    engine.ok("cp", "box:/vol/source", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/big").read_bytes() == big
    assert os.readlink(tmp_path / "back/link") == "sub/big"
    assert content(engine, "box", "/d/e/link") == big
    out = engine.ok("cp", "box:/etc/passwd", "-", text=False)
    assert list(members(out)) == ["passwd"]
    refused = engine.cli("cp", "box:/nothere", str(tmp_path))
    assert refused.returncode and "Could not find the file /nothere in container box" in refused.stderr


@pytest.mark.gantry
def test_memory_of_a_running_container(engine):
    """dockerd copies to what a tmpfs covers."""
    engine.ok("run", "-d", "--name", "mem", "--tmpfs", "/mem", "--mount", "type=tmpfs,target=/deep/mem", "busybox", "sleep", "1000")
    for at in ("/mem", "/deep/mem"):
        assert archive(engine, "PUT", "mem", at, tar(("x", b"x")))[0] == 200
        assert engine.ok("exec", "mem", "cat", f"{at}/x") == "x"
        engine.ok("exec", "mem", "sh", "-c", f"echo y >{at}/y")
        assert list(members(archive(engine, "GET", "mem", at + "/.")[2])) == [".", "./x", "./y"]
    engine.ok("restart", "-t", "0", "mem")
    assert archive(engine, "HEAD", "mem", "/mem/x")[0] == 404


@pytest.mark.gantry
def test_a_stopped_container_starts_after_the_copy(engine):
    """A slow client has it for itself, one that leaves lets it go."""
    engine.ok("create", "--name", "slow", "busybox", "true")
    body = tar(("x", b"x" * 100_000))
    with engine.connect() as sock:
        sock.sendall(f"PUT /containers/slow/archive?path=/ HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        sock.sendall(body[:50_000])
        wait_for(lambda: any("container-files" in open(f"/proc/{engine.pid}/task/{t}/comm").read()
                             for t in os.listdir(f"/proc/{engine.pid}/task")), "the copy began")
        started = threading.Thread(target=engine.ok, args=("start", "-a", "slow"))
        started.start()
        started.join(0.5)
        assert started.is_alive(), "the start waits"
    started.join(60)
    assert not started.is_alive()
    assert engine.inspect("slow")["State"]["ExitCode"] == 0


@pytest.mark.gantry
def test_changes_meanwhile(engine):
    """A tree that a container keeps changing gives whole archives."""
    busy = ("i=0; mkdir /t; while :; do i=$((i+1)); mkdir -p /t/$((i%50)); echo $i >/t/$((i%50))/f; ln -sf / /t/l$((i%7));"
            "mv /t/$((i%50)) /t/m$((i%30)) 2>/dev/null; rm -rf /t/m$((i%20)) /t/$((i%40)); touch /ready; done")
    engine.ok("run", "-d", "--name", "busy", "busybox", "sh", "-c", busy)
    wait_for(lambda: archive(engine, "HEAD", "busy", "/ready")[0] == 200, "it works")
    for _ in range(20):
        status, _, data = archive(engine, "GET", "busy", "/t")
        assert status == 200 and members(data)
        status, _, data = archive(engine, "PUT", "busy", "/t", tar(("3/f", b"ours"), ("l2/up", b"x"), ("m5/x/y", b"z")))
        assert status in (200, 404, 500), data
    assert archive(engine, "HEAD", "busy", "/up")[0] == 404, "never out of the directory"


@pytest.mark.gantry
def test_nothing_of_the_host_is_reached(engine, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    engine.ok("run", "-d", "--name", "evil", "busybox", "sh", "-c",
              f"ln -s {tmp_path} /host; ln -s /proc/1/root{tmp_path} /magic; mkdir /t; ln -s {tmp_path} /t/host; touch /ready; exec sleep 1000")
    wait_for(lambda: archive(engine, "HEAD", "evil", "/ready")[0] == 200, "it is ready")
    for path in ("/host/secret", "/magic/secret", f"/../../..{secret}"):
        assert archive(engine, "GET", "evil", path)[0] == 404, path
        assert archive(engine, "PUT", "evil", os.path.dirname(path), tar(("x", b"x")))[0] == 404, path
    archive(engine, "PUT", "evil", "/t", tar(("host/secret", b"gone"), ("host/new", b"x")))
    assert secret.read_text() == "secret" and not (tmp_path / "new").exists()
