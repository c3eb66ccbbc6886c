#!/usr/bin/env python3
"""Makes an OCI bundle of the very container that a dockerd would start, to run it with a runtime alone.

    perf/bundle.py SOCKET CONTAINERD_PID IMAGE_TAR DIR

The specification is the one that dockerd gave its runtime for a container without network: read while one runs, then the
program is `true`, the root file system a directory, and what needs the daemon (hooks, files of the container) is taken out.
"""
import http.client
import io
import json
import os
import pathlib
import socket
import sys
import tarfile


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("d")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def request(path, method, url, body=None):
    connection = Connection(path)
    connection.request(method, url, body and json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {url}: {answer.status} {data.decode()}")
    return json.loads(data) if data.strip() else None


def main(sock, containerd_pid, image, directory):
    bundle = pathlib.Path(directory)
    (bundle / "rootfs").mkdir(parents=True)
    with tarfile.open(image) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(archive.extractfile(layer).read())) as files:
                files.extractall(bundle / "rootfs")
    body = {"Image": "busybox", "Cmd": ["sleep", "3600"], "HostConfig": {"NetworkMode": "none"}}
    made = request(sock, "POST", "/v1.48/containers/create", body)["Id"]
    try:
        request(sock, "POST", f"/v1.48/containers/{made}/start")
        state = f"/proc/{containerd_pid}/root/run/containerd/io.containerd.runtime.v2.task/moby/{made}/config.json"
        spec = json.loads(pathlib.Path(state).read_text())
    finally:
        request(sock, "DELETE", f"/v1.48/containers/{made}?force=1")
    spec["process"]["args"], spec["root"]["path"] = ["true"], "rootfs"
    spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "bind"]
    spec.pop("hooks", None)
    # A version that older runtimes know; a group at the top, which the runtime takes away whole.
    spec["ociVersion"], spec["linux"]["cgroupsPath"] = "1.0.2", f"/gantry-perf-launcher-{os.getpid()}"
    spec["linux"]["namespaces"] = [{"type": n["type"]} for n in spec["linux"]["namespaces"]]
    (bundle / "config.json").write_text(json.dumps(spec))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
