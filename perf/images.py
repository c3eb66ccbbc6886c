#!/usr/bin/env python3
"""Makes what the image cases of gantry-perf work on, without any network and the same on every machine but for its busybox.

    perf/images.py make DIR               DIR/image.tar  docker-save archive `bench:latest`: 612 MiB, 5 layers, 31,000 files
                                          DIR/many.tar   20,000 files, to be copied into a container
                                          DIR/big.tar    one file of 160 MiB
                                          DIR/list.tar   docker-save archive of 1,000 images with one layer
                                          DIR/blobs      the image as blobs and manifests, gzip and zstd
    perf/images.py upload DIR HOST:PORT   DIR/blobs into a registry, as bench:gzip and bench:zstd, and away with DIR/blobs

Seven eighths of the data are words as frequent as in a language, one is random: layers of distributions compress alike.
"""
import concurrent.futures
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
import mkimage  # noqa: E402

MIB = 1 << 20
LAYERS = 5
BIG_BYTES = 160 * MIB
POOL_BYTES = 24 * MIB
# Per layer: small files under /many and larger ones under /rest, of layers 1 to 4; the first has busybox and the big file.
KINDS = {"many": (5000, 4096), "rest": (2500, 35200)}
FIRST_FILES, FIRST_BYTES = 999, 16384
LISTED_IMAGES = 1000
OCI = "application/vnd.oci.image."


def make_pool():
    """Text with the frequencies of a language, with random blocks in it."""
    rng = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz_0123456789"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(20000)]
    total, weights = 0.0, []
    for rank in range(1, len(words) + 1):
        total += 1 / rank
        weights.append(total)
    out = bytearray()
    while len(out) < POOL_BYTES:
        out += " ".join(rng.choices(words, cum_weights=weights, k=8000)).encode()[:56 << 10]
        out += rng.randbytes(8 << 10)
    return bytes(out)


def data_of(pool, rng, size):
    out = bytearray()
    while len(out) < size:
        at = rng.randrange(len(pool) - 1)
        out += pool[at:at + min(size - len(out), MIB)]
    return bytes(out)


def file_entries(pool, layer, kind):
    """Directories and files of one kind in one layer."""
    count, mean = KINDS[kind] if kind in KINDS else (FIRST_FILES, FIRST_BYTES)
    rng = random.Random(f"{kind} {layer}")
    yield mkimage.entry(kind, tarfile.DIRTYPE, 0o755)
    yield mkimage.entry(f"{kind}/{layer}", tarfile.DIRTYPE, 0o755)
    for i in range(count):
        if i % 50 == 0:
            yield mkimage.entry(f"{kind}/{layer}/{i // 50:03}", tarfile.DIRTYPE, 0o755)
        data = data_of(pool, rng, int(rng.expovariate(1 / mean)))
        mode = 0o755 if i % 10 == 0 else 0o644
        yield mkimage.entry(f"{kind}/{layer}/{i // 50:03}/{rng.getrandbits(48):012x}.bin", mode=mode, data=data)


def write_tar(path, entries):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, None if data is None else io.BytesIO(data))


def layer_entries(pool, layer):
    if layer > 0:
        for kind in KINDS:
            yield from file_entries(pool, layer, kind)
        return
    with tarfile.open(fileobj=io.BytesIO(mkimage.busybox_layer(mkimage.find_busybox()))) as tar:
        for info in tar:
            yield info, tar.extractfile(info).read() if info.isreg() else None
    yield mkimage.entry("big", data=data_of(pool, random.Random(2), BIG_BYTES))
    yield from file_entries(pool, 0, "first")


def digest_of(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def config_of(diff_ids, comment):
    return json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(mkimage.os.uname().machine, "amd64"), "os": "linux",
        "created": mkimage.CREATED, "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + d for d in diff_ids]},
        "history": [{"created": mkimage.CREATED, "created_by": comment} for _ in diff_ids]}).encode()


def archive(path, layers, images):
    """A docker-save archive: `layers` are pairs of digest and file, `images` of tag and configuration."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        manifest = []
        for digest, file in layers:
            info = tarfile.TarInfo(f"{digest}/layer.tar")
            info.size = file.stat().st_size
            with open(file, "rb") as data:
                tar.addfile(info, data)
        for tag, config in images:
            name = hashlib.sha256(config).hexdigest() + ".json"
            info, data = mkimage.entry(name, data=config)
            tar.addfile(info, io.BytesIO(data))
            manifest.append({"Config": name, "RepoTags": [tag], "Layers": [f"{d}/layer.tar" for d, _ in layers]})
        info, data = mkimage.entry("manifest.json", data=json.dumps(manifest).encode())
        tar.addfile(info, io.BytesIO(data))


def compress(layer, how):
    """The layer compressed as registries have it; digest and size."""
    out = layer.with_suffix("." + how)
    if how == "gzip":
        with open(layer, "rb") as src, open(out, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as dst:
            shutil.copyfileobj(src, dst, MIB)
    else:
        subprocess.run(["zstd", "-q", "-3", "-T1", str(layer), "-o", str(out)], check=True)
    digest, size = digest_of(out), out.stat().st_size
    out.rename(out.with_name(digest))
    return {"mediaType": f"{OCI}layer.v1.tar+{how}", "digest": "sha256:" + digest, "size": size}


def make(directory):
    top = pathlib.Path(directory)
    blobs = top / "blobs"
    blobs.mkdir(parents=True)
    pool = make_pool()
    files = []
    for layer in range(LAYERS):
        files.append(blobs / f"layer{layer}")
        write_tar(files[-1], layer_entries(pool, layer))
    write_tar(top / "many.tar", (e for layer in range(1, LAYERS) for e in file_entries(pool, layer, "many")))
    write_tar(top / "big.tar", [mkimage.entry("big", data=data_of(pool, random.Random(2), BIG_BYTES))])
    diff_ids = [digest_of(f) for f in files]
    config = config_of(diff_ids, "bench")
    archive(top / "image.tar", list(zip(diff_ids, files)), [("bench:latest", config)])
    small = blobs / "small"
    small.write_bytes(mkimage.busybox_layer(mkimage.find_busybox()))
    digest = digest_of(small)
    archive(top / "list.tar", [(digest, small)],
            [(f"listed:{i}", config_of([digest], f"image {i}")) for i in range(LISTED_IMAGES)])
    small.unlink()
    (blobs / hashlib.sha256(config).hexdigest()).write_bytes(config)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for how in ("gzip", "zstd"):
            layers = list(pool.map(compress, files, [how] * LAYERS))
            (blobs / f"manifest.{how}").write_text(json.dumps({
                "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "layers": layers,
                "config": {"mediaType": OCI + "config.v1+json", "size": len(config),
                           "digest": "sha256:" + hashlib.sha256(config).hexdigest()}}))
            size = sum(layer["size"] for layer in layers) / MIB
            print(f"{how}: {size:.0f} MiB", file=sys.stderr)
    print(f"image: {sum(f.stat().st_size for f in files) / MIB:.0f} MiB", file=sys.stderr)
    for file in files:
        file.unlink()


def upload(directory, host):
    """All blobs, each in one request, then the manifests."""
    blobs = pathlib.Path(directory) / "blobs"
    registry = http.client.HTTPConnection(host, timeout=120)

    def request(method, path, body=b"", kind="application/octet-stream", length=0):
        registry.request(method, path, body, {"Content-Type": kind, "Content-Length": str(length)})
        answer = registry.getresponse()
        text = answer.read()
        if answer.status not in (201, 202):
            sys.exit(f"{method} {path}: {answer.status} {text.decode()}")
        return answer.headers.get("Location", "")

    for blob in blobs.iterdir():
        if blob.name.startswith("manifest."):
            continue
        where = request("POST", "/v2/bench/blobs/uploads/").removeprefix(f"http://{host}")
        sign = "&" if "?" in where else "?"
        with open(blob, "rb") as data:
            request("PUT", f"{where}{sign}digest=sha256:{blob.name}", data, length=blob.stat().st_size)
    for how in ("gzip", "zstd"):
        manifest = (blobs / f"manifest.{how}").read_bytes()
        request("PUT", f"/v2/bench/manifests/{how}", manifest, OCI + "manifest.v1+json", len(manifest))
    shutil.rmtree(blobs)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    elif len(sys.argv) == 4 and sys.argv[1] == "upload":
        upload(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
