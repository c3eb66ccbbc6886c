#!/usr/bin/env python3
"""Make a small container image from the machine's static busybox, without any registry.

    mkimage.py OUT.tar                                   docker-save archive, tag busybox:latest
    mkimage.py --format oci --compression zstd OUT.tar   OCI layout with a zstd layer

Only the standard library is used; zstd layers need the `zstd` program. The output is
reproducible: the same busybox gives the same bytes.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

CREATED = "2024-01-01T00:00:00Z"
MEDIA_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
OCI = "application/vnd.oci.image."


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def find_busybox():
    """The static busybox of the machine, or an error that says which package has it."""
    for path in ("/bin/busybox", "/usr/bin/busybox", shutil.which("busybox")):
        if path and os.path.exists(path):
            return path
    sys.exit("mkimage: no busybox on this machine (Debian: apt-get install busybox-static)")


def tar_bytes(members):
    """An uncompressed tar of `members`: pairs of TarInfo and bytes (or None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def entry(name, kind=tarfile.REGTYPE, mode=0o644, data=None, link="", uid=0, gid=0, **pax):
    """One tar member; `kind` is a tarfile type constant."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    info.uid, info.gid, info.mtime = uid, gid, 1704067200
    if data is not None:
        info.size = len(data)
    info.pax_headers = pax.get("pax_headers", {})
    return info, data


def busybox_layer(busybox):
    """The root file system: busybox, its applets as hard links, users, groups and directories."""
    with open(busybox, "rb") as f:
        program = f.read()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    members = [entry(d, tarfile.DIRTYPE, 0o755) for d in
               ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var", "var/www")]
    members.append(entry("tmp", tarfile.DIRTYPE, 0o1777))
    members.append(entry("bin/busybox", mode=0o755, data=program))
    for name in sorted(set(applets.stdout.split())):
        if name != "busybox":
            members.append(entry("bin/" + name, tarfile.LNKTYPE, 0o755, link="bin/busybox"))
    members.append(entry("usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/busybox"))
    members.append(entry("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n"
                         b"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
                         b"www-data:x:33:33:www-data:/var/www:/bin/false\n"
                         b"alice:x:1000:1000:Alice:/home:/bin/sh\n"))
    members.append(entry("etc/group", data=b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\n"
                         b"staff:x:50:alice\nalice:x:1000:\n"))
    return tar_bytes(members)


def compress(data, how):
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if how == "zstd":
        tool = shutil.which("zstd") or sys.exit("mkimage: zstd layers need the zstd program")
        return subprocess.run([tool, "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def image_config(layers, **over):
    """An image config document for uncompressed `layers`; `over` replaces keys of its Config."""
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
              "Cmd": ["sh"]}
    config.update(over)
    return json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux", "created": CREATED, "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256(x) for x in layers]},
        "history": [{"created": CREATED, "created_by": "layer %d of mkimage" % i} for i in range(len(layers))],
    }).encode()


def docker_archive(tag, layers, config=None, compression="none"):
    """A `docker save` archive of one image."""
    config = config or image_config(layers)
    members, names = [], []
    for layer in layers:
        name = sha256(layer) + "/layer.tar"
        names.append(name)
        members.append(entry(name, data=compress(layer, compression)))
    manifest = [{"Config": sha256(config) + ".json", "RepoTags": [tag] if tag else None, "Layers": names}]
    members.append(entry(sha256(config) + ".json", data=config))
    members.append(entry("manifest.json", data=json.dumps(manifest).encode()))
    return tar_bytes(members)


def oci_archive(tag, layers, config=None, compression="gzip"):
    """A tar of an OCI image layout of one image, named by its annotations as docker writes them."""
    config = config or image_config(layers)
    blobs = []

    def blob(data, media_type):
        blobs.append(entry("blobs/sha256/" + sha256(data), data=data))
        return {"mediaType": media_type, "digest": "sha256:" + sha256(data), "size": len(data)}

    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
        "config": blob(config, OCI + "config.v1+json"),
        "layers": [blob(compress(x, compression), OCI + "layer.v1.tar" + MEDIA_SUFFIX[compression])
                   for x in layers],
    }).encode()
    descriptor = blob(manifest, OCI + "manifest.v1+json")
    if tag:
        descriptor["annotations"] = {"io.containerd.image.name": "docker.io/library/" + tag,
                                     "org.opencontainers.image.ref.name": tag.rpartition(":")[2]}
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": [descriptor]}
    return tar_bytes([entry("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'),
                      entry("blobs", tarfile.DIRTYPE, 0o755), entry("blobs/sha256", tarfile.DIRTYPE, 0o755),
                      *blobs, entry("index.json", data=json.dumps(index).encode())])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("docker", "oci"), default="docker")
    parser.add_argument("--compression", choices=("none", "gzip", "zstd"), default=None)
    parser.add_argument("--tag", default="busybox:latest")
    parser.add_argument("--busybox", default=None, help="the static program to put in")
    parser.add_argument("out")
    args = parser.parse_args()
    layer = busybox_layer(args.busybox or find_busybox())
    make = docker_archive if args.format == "docker" else oci_archive
    how = args.compression or ("none" if args.format == "docker" else "gzip")
    with open(args.out, "wb") as f:
        f.write(make(args.tag, [layer], compression=how))


if __name__ == "__main__":
    main()
