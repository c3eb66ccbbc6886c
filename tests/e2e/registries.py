"""Registries of the tests: Debian's docker-registry on loopback, and images put into one by hand."""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request

import mkimage
from engine import wait_for

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def registry_program():
    return shutil.which("docker-registry")


class Registry:
    """Debian's registry. `conf` is more of its configuration (YAML lines)."""

    def __init__(self, directory, conf="", port=None, scheme="http", tls=""):
        self.dir, self.port, self.scheme = directory, port or free_port(), scheme
        self.dir.mkdir(parents=True, exist_ok=True)
        self.host = f"127.0.0.1:{self.port}"
        (self.dir / "conf.yml").write_text(
            "version: 0.1\nlog: {level: info, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.dir}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{self.host}'{tls}}}\n{conf}")
        self.process = None

    def start(self):
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen([registry_program(), "serve", str(self.dir / "conf.yml")],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

        def up():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return True
        wait_for(up, "the registry listens")
        return self

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def request(self, method, path, data=None, headers=None):
        url = path if path.startswith("http") else f"{self.scheme}://{self.host}{path}"
        req = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        return urllib.request.urlopen(req, timeout=60)

    def blob(self, repo, data):
        where = self.request("POST", f"/v2/{repo}/blobs/uploads/", b"").headers["Location"]
        sign = "&" if "?" in where else "?"
        self.request("PUT", f"{where}{sign}digest={digest(data)}", data,
                     {"Content-Type": "application/octet-stream"})
        return {"digest": digest(data), "size": len(data)}

    def manifest(self, repo, tag, document, media):
        data = json.dumps(document, indent=1).encode()
        self.request("PUT", f"/v2/{repo}/manifests/{tag}", data, {"Content-Type": media})
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    def image(self, repo, tag, layers, compression="gzip", docker=False, **config):
        """Puts an image there; `layers` are uncompressed tars. Its descriptor."""
        document = json.loads(mkimage.image_config(layers))
        document.update(config)
        kind = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
        media = f"application/vnd.oci.image.layer.v1.tar{kind}"
        if docker:
            media = {"gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                     "none": "application/vnd.docker.image.rootfs.diff.tar"}[compression]
        packed = [mkimage.compress(layer, compression) for layer in layers]
        top = DOCKER_MANIFEST if docker else OCI_MANIFEST
        return self.manifest(repo, tag, {
            "schemaVersion": 2, "mediaType": top,
            "config": {"mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                       **self.blob(repo, json.dumps(document).encode())},
            "layers": [{"mediaType": media, **self.blob(repo, p)} for p in packed]}, top)

    def index(self, repo, tag, entries):
        """An index of (descriptor, architecture)."""
        rows = [{**d, "platform": {"os": "linux", "architecture": a}} for d, a in entries]
        return self.manifest(repo, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}, OCI_INDEX)

    def requests(self):
        """The access log: lines of method and path."""
        self.log.flush()
        rows = []
        for line in (self.dir / "log").read_text(errors="replace").splitlines():
            parts = line.split('"')
            if len(parts) > 2 and parts[1].split(" ")[0] in ("GET", "HEAD", "PUT", "POST", "PATCH"):
                rows.append(" ".join(parts[1].split(" ")[:2]))
        return rows


def noise_layer(name, size):
    """A tar with one file of random bytes."""
    return mkimage.tar_bytes([mkimage.entry(name, data=os.urandom(size))])


def lines(body):
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def pull(eng, image, tag="", headers=None, timeout=300, **query):
    """POST /images/create: the status, and the lines of the stream (or the error's document)."""
    parts = [f"fromImage={image}"] + ([f"tag={tag}"] if tag else []) + [f"{k}={v}" for k, v in query.items()]
    status, _, body = eng.http("POST", "/images/create?" + "&".join(parts), headers=headers, timeout=timeout)
    return status, lines(body)


def statuses(stream, ident=None):
    """The states of one layer (or the lines without an id) in order, without their byte counts."""
    found = []
    for row in stream:
        if row.get("id") == ident and "status" in row and "progress" not in row:
            found.append(row["status"])
    return found
