"""Drives one engine through the cases: the same requests to whichever engine it is."""
import contextlib
import glob
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import uuid

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests/e2e")]

import mkimage  # noqa: E402
from engine import External, wait_for  # noqa: E402,F401

API = "/v1.48"
PREFIX = "gdiff-"
PROBE = pathlib.Path(__file__).with_name("probe.sh")


def image_tars():
    """The images of the cases, as `docker save` archives."""
    base = mkimage.busybox_layer(mkimage.find_busybox())
    top = mkimage.tar_bytes([
        mkimage.entry("probe.sh", mode=0o755, data=PROBE.read_bytes()),
        *(mkimage.entry(d, mkimage.tarfile.DIRTYPE, 0o755) for d in ("data", "mnt", "opt")),
        mkimage.entry("volume", mkimage.tarfile.DIRTYPE, 0o750, uid=33, gid=50),
        mkimage.entry("volume/seed", mode=0o640, data=b"of the image\n", uid=1000),
        mkimage.entry("volume/dir", mkimage.tarfile.DIRTYPE, 0o755),
        mkimage.entry("volume/dir/inner", mkimage.tarfile.DIRTYPE, 0o755),
        mkimage.entry("volume/dir/inner/deep", data=b"deep\n")])
    layers = [base, top]
    declared = mkimage.image_config(
        layers, Entrypoint=["/bin/sh", "/probe.sh"], Cmd=["/etc/passwd"], User="alice", WorkingDir="/volume/new",
        Env=["PATH=/usr/bin:/bin", "FROM=image", "ONLY=image"], Labels={"of": "image", "own": "0"},
        Volumes={"/volume": {}, "/declared": {}}, ExposedPorts={"8080/tcp": {}}, StopSignal="SIGINT", Shell=["/bin/ash", "-c"])
    bare = mkimage.image_config([base], Cmd=None, Env=None)
    return [mkimage.docker_archive("probe:latest", layers), mkimage.docker_archive("declared:latest", layers, declared),
            mkimage.docker_archive("bare:latest", [base], bare)]


class HostDir:
    """A directory of the engine's host for bind mounts: a shared tmpfs with another one below it.

    It is made in the mount namespace and root of the engine's process, wherever that lives.
    """

    def __init__(self, pid):
        self.pid, self.path = pid, f"/var/tmp/gdiff-{uuid.uuid4().hex[:8]}"
        self.here = pathlib.Path(f"/proc/{pid}/root{self.path}")
        self.here.mkdir(parents=True)
        self.mount("-t", "tmpfs", "-o", "mode=755", "gdiff", self.path)
        self.mount("--make-shared", self.path)
        for name in ("plain", "tree", "tree/sub", "private"):
            (self.here / name).mkdir()
        (self.here / "plain/file").write_text("plain\n")
        (self.here / "tree/top").write_text("top\n")
        self.mount("-t", "tmpfs", "-o", "mode=755", "gdiffsub", f"{self.path}/tree/sub")
        (self.here / "tree/sub/below").write_text("below\n")
        self.mount("--bind", f"{self.path}/private", f"{self.path}/private")
        self.mount("--make-private", f"{self.path}/private")

    def mount(self, *args):
        self.inside("mount", *args)

    def inside(self, *args):
        subprocess.run(["nsenter", "-t", str(self.pid), "-m", "-r", "--", *args], check=True)

    def remove(self):
        for name in ("/private", "/tree/sub", ""):
            self.inside("umount", self.path + name)
        self.here.rmdir()


def process_of(socket_path):
    """The process that listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(socket_path)
        return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


class Driver:
    """An engine with the images of the cases and a host directory."""

    def __init__(self, engine):
        self.engine = engine
        self.pid = process_of(engine.socket_path)
        self.dir = HostDir(self.pid)
        for tar in image_tars():
            status, _, data = engine.http("POST", f"{API}/images/load?quiet=1", tar, {"Content-Type": "application/x-tar"})
            assert status == 200 and b"Loaded image" in data, data
        self.info = self.json("GET", "/info")[1]
        self.ids = {}

    def close(self):
        for row in self.json("GET", "/containers/json?all=1")[1]:
            if any(name.startswith("/" + PREFIX) for name in row["Names"]):
                self.json("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        self.remove_volumes()
        remove_groups()
        self.dir.remove()

    def json(self, method, path, body=None):
        status, _, data = self.engine.http(method, API + path, body)
        text = data.decode(errors="replace")
        try:
            return status, json.loads(text) if text.strip() else None
        except ValueError:
            return status, text

    def put_in(self, value):
        """`value` with the places of the host directory and of the donors filled in."""
        if isinstance(value, str):
            for name, id in self.ids.items():
                value = value.replace("@" + name, id)
            return value.replace("@dir", self.dir.path)
        if isinstance(value, list):
            return [self.put_in(v) for v in value]
        if isinstance(value, dict):
            return {k: self.put_in(v) for k, v in value.items()}
        return value

    def run(self, case):
        """What became of a case: a raw document, to be normalised with `Names`."""
        self.ids = {}
        try:
            result = self.run_with_donors(case)
            result["ids"] = {**self.ids, **result.get("ids", {})}
            return result
        finally:
            for id in self.ids.values():
                self.json("DELETE", f"/containers/{id}?force=1&v=1")
            self.remove_volumes()

    def remove_volumes(self):
        for row in self.json("GET", "/volumes")[1]["Volumes"] or []:
            if row["Name"].startswith(PREFIX):
                self.json("DELETE", f"/volumes/{row['Name']}")

    def run_with_donors(self, case):
        namespaces = {}
        for name, body in case.donors.items():
            body = dict(body)
            stopped = body.pop("stopped", False)
            status, made = self.json("POST", f"/containers/create?name={PREFIX}{name}", self.put_in(body))
            assert status == 201, (case.name, made)
            self.ids[name] = made["Id"]
            if not stopped:
                status, answer = self.json("POST", f"/containers/{made['Id']}/start")
                assert status == 204, (case.name, answer)
                pid = self.json("GET", f"/containers/{made['Id']}/json")[1]["State"]["Pid"]
                namespaces[name] = namespaces_of(pid)
        result = {"namespaces": namespaces, "host": namespaces_of(self.pid)}
        name = PREFIX + case.name
        status, answer = self.json("POST", f"/containers/create?name={name}", self.put_in(case.body()))
        result["create"] = {"status": status, "answer": answer}
        if status != 201:
            result["left"] = self.json("GET", f"/containers/{name}/json")[0]
            return result
        self.ids["id"] = id = answer["Id"]
        result["created"] = self.json("GET", f"/containers/{id}/json")[1]
        with Stream(self.engine, f"/containers/{id}/attach?stream=1&stdout=1&stderr=1", None, case.config.get("Tty")) as attached:
            status, answer = self.json("POST", f"/containers/{id}/start")
            result["start"] = {"status": status, "answer": answer}
            if status == 204:
                result["calls"] = [self.call(c, attached) for c in case.calls]
                result["output"] = attached.rest()
        if status == 204:
            result["wait"] = self.json("POST", f"/containers/{id}/wait")
        result["ended"] = self.json("GET", f"/containers/{id}/json")[1]
        result["remove"] = self.json("DELETE", f"/containers/{id}?v=1")[0]
        result["ids"] = {"id": self.ids.pop("id")}
        return result

    def call(self, call, attached):
        method, path, body = call
        if method == "READY":
            attached.until(path.encode())
            return None
        if method == "EXEC":
            return self.execute(self.put_in(path), body)
        return self.json(method, self.put_in(path), body)


    def execute(self, path, body):
        """A process in a running container: the answers, its output, what is shown of it afterwards."""
        result = {"create": self.json("POST", path, body)}
        if result["create"][0] != 201:
            return result
        id = result["create"][1]["Id"]
        with Stream(self.engine, f"/exec/{id}/start", {"Tty": body.get("Tty", False)}, body.get("Tty")) as stream:
            result["start"], result["output"] = stream.status, stream.rest()
        wait_for(lambda: not self.json("GET", f"/exec/{id}/json")[1]["Running"], "the end of an exec")
        result["inspect"] = self.json("GET", f"/exec/{id}/json")[1]
        return result


def remove_groups():
    """Parent groups that the cases ask for stay behind their containers, with every engine."""
    for name in ("gdiff/parent", "gdiff", "gdiff-relative"):
        for path in glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True):
            with contextlib.suppress(OSError):  # Another run has containers in it.
                os.rmdir(path)


def namespaces_of(pid):
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}


class Stream:
    """The output of a container or an exec from its first byte; a refusal is all of it."""

    def __init__(self, engine, path, body, tty):
        self.engine, self.path, self.tty = engine, path, tty
        self.body = b"" if body is None else json.dumps(body).encode()

    def __enter__(self):
        self.sock = self.engine.connect()
        self.sock.sendall(f"POST {API}{self.path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                          f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n".encode() + self.body)
        self.file = self.sock.makefile("rb")
        self.status, self.data, length = int(self.file.readline().split()[1]), b"", 0
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if self.status != 101:
            self.data, self.tty = self.file.read(length), True
            self.sock.shutdown(socket.SHUT_RDWR)
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def chunk(self):
        if self.tty:
            return self.file.read1(65536)
        head = self.file.read(8)
        return self.file.read(struct.unpack(">I", head[4:])[0]) if len(head) == 8 else b""

    def until(self, mark):
        while mark not in self.data:
            more = self.chunk()
            assert more, f"ended before {mark}: {self.data}"
            self.data += more

    def rest(self):
        while more := self.chunk():
            self.data += more
        return self.data.decode(errors="backslashreplace")
