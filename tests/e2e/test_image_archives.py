"""Archives in and out: what is saved can be loaded, what is loaded is what was in the archive, and what fails leaves nothing."""
import io
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import leaks
import mkimage
import pytest
from engine import Daemon, wait_for

TAR = {"Content-Type": "application/x-tar"}
e = mkimage.entry


@pytest.fixture
def images(engine):
    """Load and import by the API; what was not there before is forgotten at the end."""
    before = {i["Id"] for i in engine.json("GET", "/images/json?all=1")[1]}
    yield engine
    engine.remove_all()
    for image in engine.json("GET", "/images/json?all=1")[1]:
        if image["Id"] not in before:
            engine.http("DELETE", f"/images/{image['Id']}?force=1")


def load(engine, archive, query="quiet=1"):
    status, _, body = engine.http("POST", f"/images/load?{query}", archive, TAR)
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def layer(*members):
    return mkimage.tar_bytes(members)


def disk(engine):
    """Files below the parts of the data root that images live in."""
    found = set()
    for part in ("layers", "content", "tmp"):
        for base, dirs, files in os.walk(engine.data_root / part):
            found.update(os.path.relpath(os.path.join(base, name), engine.data_root) for name in files + dirs)
            if base.endswith(("layers/sha256", "layers/erofs")):
                dirs.clear()
    return found


def test_save_gives_what_was_loaded(images, base_layer):
    second = layer(e("d", tarfile.DIRTYPE, 0o750), e("d/f", data=b"x" * 700_001), e("bin/.wh.env", data=b""))
    config = mkimage.image_config([base_layer, second], Labels={"a": "b"})
    load(images, mkimage.docker_archive("saved:1", [base_layer, second], config, "gzip"))
    images.ok("tag", "saved:1", "saved:2")
    images.ok("tag", "saved:1", "other/name:x")
    status, headers, archive = images.http("GET", "/images/get?names=saved&names=other/name:x")
    assert status == 200 and headers["content-type"] == "application/x-tar"
    tar = tarfile.open(fileobj=io.BytesIO(archive))
    manifest = json.load(tar.extractfile("manifest.json"))
    assert [sorted(m["RepoTags"]) for m in manifest] == [["other/name:x", "saved:1", "saved:2"]]
    assert tar.extractfile(manifest[0]["Config"]).read() == config
    assert [tar.extractfile(name).read() for name in manifest[0]["Layers"]] == [base_layer, second]
    index = json.load(tar.extractfile("index.json"))
    assert {d["annotations"]["io.containerd.image.name"] for d in index["manifests"]} == {
        "docker.io/library/saved:1", "docker.io/library/saved:2", "docker.io/other/name:x"}
    blob = tar.extractfile("blobs/" + index["manifests"][0]["digest"].replace(":", "/")).read()
    assert "sha256:" + mkimage.sha256(blob) == index["manifests"][0]["digest"]
    assert json.load(tar.extractfile("repositories"))["saved"].keys() == {"1", "2"}
    image_id = images.inspect("saved:1")["Id"]
    images.ok("rmi", "saved:1", "saved:2", "other/name:x")
    said = load(images, archive)
    assert sorted(s["stream"] for s in said) == [f"Loaded image: {t}\n" for t in ("other/name:x", "saved:1", "saved:2")]
    assert images.inspect("saved:2")["Id"] == image_id
    assert images.ok("run", "--rm", "--network", "none", "saved:1", "stat", "-c", "%a %s", "/d", "/d/f").split()[2:] == [
        "644", "700001"]


def test_save_by_id_has_no_name_and_a_missing_image_is_404(images):
    image_id = images.inspect("busybox")["Id"]
    archive = images.ok("save", image_id, text=False)
    manifest = json.load(tarfile.open(fileobj=io.BytesIO(archive)).extractfile("manifest.json"))
    assert len(manifest) == 1 and not manifest[0]["RepoTags"]
    for path in ("/images/nosuch/get", "/images/get?names=busybox&names=nosuch"):
        status, doc = images.json("GET", path)
        assert (status, doc) == (404, {"message": "No such image: nosuch"})


def test_several_images_share_layers(images, base_layer):
    top = layer(e("top", data=b"t"))
    members = {}
    manifest = []
    for tag, layers in (("multi:1", [base_layer]), ("multi:2", [base_layer, top])):
        config = mkimage.image_config(layers)
        members[mkimage.sha256(config) + ".json"] = config
        for content in layers:
            members[mkimage.sha256(content) + "/layer.tar"] = content
        manifest.append({"Config": mkimage.sha256(config) + ".json", "RepoTags": [tag],
                         "Layers": [mkimage.sha256(x) + "/layer.tar" for x in layers]})
    members["manifest.json"] = json.dumps(manifest).encode()
    said = load(images, mkimage.tar_bytes([e(name, data=data) for name, data in members.items()]))
    assert [s["stream"] for s in said] == ["Loaded image: multi:1\n", "Loaded image: multi:2\n"]
    images.ok("rmi", "multi:1")
    assert images.ok("run", "--rm", "--network", "none", "multi:2", "cat", "/top") == "t"


def oci_index(layers_of, wrap):
    """An OCI layout whose index.json (or, with `wrap`, a nested index) has one manifest per platform."""
    blobs, manifests = {}, []

    def blob(data, kind, **more):
        digest = "sha256:" + mkimage.sha256(data)
        blobs["blobs/sha256/" + digest[7:]] = data
        return {"mediaType": mkimage.OCI + kind, "digest": digest, "size": len(data)} | more

    for architecture, layers in layers_of.items():
        config = mkimage.image_config(layers, Labels={"of": "plats"}).replace(
            b'"architecture": "amd64"', b'"architecture": "%s"' % architecture.encode())
        manifest = {"schemaVersion": 2, "config": blob(config, "config.v1+json"),
                    "layers": [blob(x, "layer.v1.tar") for x in layers]}
        manifests.append(blob(json.dumps(manifest).encode(), "manifest.v1+json",
                              platform={"os": "linux", "architecture": architecture}))
    name = {"annotations": {"io.containerd.image.name": "docker.io/library/plats:1"}}
    if wrap:
        manifests = [blob(json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(), "index.v1+json", **name)]
    else:
        manifests = [m | name for m in manifests]
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return mkimage.tar_bytes([e("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'), e("index.json", data=index),
                              *(e(path, data=data) for path, data in blobs.items())])


@pytest.mark.gantry  # dockerd with graph drivers wants a manifest.json too
@pytest.mark.parametrize("wrap", [True, False], ids=["nested", "flat"])
def test_the_platform_of_the_machine_is_chosen(images, base_layer, wrap):
    archive = oci_index({"s390x": [layer(e("s390x", data=b"x"))], "amd64": [base_layer], "arm64": [layer(e("arm", data=b"x"))]}, wrap)
    assert load(images, archive) == [{"stream": "Loaded image: plats:1\n"}]
    assert images.inspect("plats:1")["Architecture"] == "amd64"
    wished = 'quiet=1&platform={"os":"linux","architecture":"arm64","variant":"v8"}'.replace('"', "%22")
    assert load(images, archive, wished)[-1] == {"stream": "Loaded image: plats:1\n"}
    assert images.inspect("plats:1")["Architecture"] == "arm64"
    said = load(images, archive, wished.replace("arm64", "mips"))
    assert "linux/mips/v8" in said[0]["error"] and said[0]["errorDetail"] == {"message": said[0]["error"]}


def test_progress_is_told_unless_quiet(images):
    content = os.urandom(300_000)
    archive = mkimage.docker_archive("progress:1", [layer(e("f", data=content))])
    said = load(images, archive, "quiet=0")
    last = [s for s in said if "status" in s][-1]
    total = last["progressDetail"]["total"]
    assert last["status"] == "Loading layer" and len(last["id"]) == 12 and total > 300_000
    assert last["progressDetail"]["current"] == total
    assert last["progress"].startswith("[" + "=" * 50 + ">]") and last["progress"].endswith("kB")
    assert said[-1] == {"stream": "Loaded image: progress:1\n"}
    assert load(images, archive, "quiet=0") == [{"stream": "Loaded image: progress:1\n"}]
    images.ok("rmi", "progress:1")
    assert load(images, archive, "") == [{"stream": "Loaded image: progress:1\n"}]


def weird_layer():
    """Everything a layer may hold that is easy to get wrong."""
    long = "l" * 120 + "/" + "n" * 200
    deep = ["/".join(["deep"] * n) for n in range(1, 21)]
    members = [
        e("w", tarfile.DIRTYPE, 0o2775, uid=5, gid=6), e("w/suid", mode=0o6755, data=b"s", uid=2_500_000, gid=3_000_000),
        e("w/hard1", data=b"hard"), e("w/hard2", tarfile.LNKTYPE, link="w/hard1"), e("w/abs", tarfile.SYMTYPE, 0o777, link="/etc/passwd"),
        e("w/dangling", tarfile.SYMTYPE, 0o777, link="../../../nowhere/at/all"), e("w/zero", tarfile.CHRTYPE, 0o666),
        e("w/fifo", tarfile.FIFOTYPE, 0o620), e("w/empty", data=b""), e("w/sticky", tarfile.DIRTYPE, 0o1777),
        e("w/none", tarfile.DIRTYPE, 0), e("w/none/f", mode=0, data=b"n"),
        e("l" * 120, tarfile.DIRTYPE, 0o755), e(long, data=b"long name"),
        *(e(d, tarfile.DIRTYPE, 0o755) for d in deep), e(deep[-1] + "/file", data=b"deep"),
        e("w/\udcff\udcfe name", data=b"not utf-8"), e("w/sp ace\nnl", data=b"blank"),
        e("w/xattr", data=b"x", pax_headers={"SCHILY.xattr.user.k": "v"}),
        e("w/caps", mode=0o755, data=b"c", pax_headers={
            "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}),
        e("w/frac", data=b"f", pax_headers={"mtime": "1234567890.123456789"}),
        e("w/big", data=b"\0" * 5_000_000 + b"end"),
    ]
    for info, _ in members:
        if info.name == "w/zero":
            info.devmajor, info.devminor = 1, 5
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


LIST = ("find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /etc/hosts -o -path /etc/hostname -o "
        "-path /etc/resolv.conf -o -path /etc/mtab -o -path /.dockerenv \\) -prune -o \\( -path /etc -o -path / \\) -o -exec stat -c '%N %f %u %g %Y %t:%T' {} + | sort; "
        "find /w /deep /lll* /gone /hidden /replaced -xdev -type f -exec sha256sum {} + | sort; "
        "find /w /deep /lll* /gone /hidden /replaced -xdev -type f -exec stat -c '%h %s %n' {} + | sort")
WEIRD_LISTING = pathlib.Path(__file__).parent / "data" / "weird_layer.txt"


def test_a_layer_is_what_its_archive_says(images, base_layer):
    """The listing was made by dockerd 28.5.2 of the same image."""
    whiteouts = layer(e("gone/.wh.a", data=b""), e("hidden", tarfile.DIRTYPE, 0o755), e("hidden/.wh..wh..opq", data=b""),
                      e("gone", tarfile.DIRTYPE, 0o755), e("hidden/new", data=b"new"), e("replaced", data=b"file now"), e(".wh.root-file", data=b""))
    below = layer(e("gone", tarfile.DIRTYPE, 0o755), e("gone/a", data=b"a"), e("gone/b", data=b"b"),
                  e("hidden", tarfile.DIRTYPE, 0o755), e("hidden/old", data=b"old"), e("replaced", tarfile.DIRTYPE, 0o755),
                  e("replaced/in", data=b"x"), e("root-file", data=b"x"))
    empty = layer()
    load(images, mkimage.docker_archive("weird:1", [base_layer, below, empty, weird_layer(), whiteouts]))
    done = images.cli("run", "--rm", "--network", "none", "weird:1", "sh", "-c", LIST, text=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.split(b"\n") if b"/bin/" not in line]
    if os.environ.get("GANTRY_WRITE_LISTING") == "1":
        WEIRD_LISTING.write_bytes(b"\n".join(lines))
    assert lines == WEIRD_LISTING.read_bytes().split(b"\n")


def test_a_removed_image_of_a_container_is_kept_for_it(images, base_layer):
    load(images, mkimage.docker_archive("inuse:1", [base_layer, layer(e("mine", data=b"still here"))]))
    image_id = images.inspect("inuse:1")["Id"]
    images.ok("create", "--name", "user", "--network", "none", "inuse:1", "cat", "/mine")
    assert images.cli("rmi", "inuse:1").returncode == 1
    said = images.ok("rmi", "-f", "inuse:1").splitlines()
    assert said == ["Untagged: inuse:1", f"Deleted: {image_id}"]
    assert images.cli("image", "inspect", image_id).returncode == 1
    assert images.json("GET", "/containers/json?all=1")[1][0]["Image"] == image_id
    assert images.ok("start", "-a", "user") == "still here"
    assert images.inspect("user")["Image"] == image_id
    if not images.external:
        before = disk(images)
        images.ok("rm", "user")
        wait_for(lambda: len(before) - len(disk(images)) >= 3, "layer, its archive and the config go with the container")


def test_prune_takes_what_nothing_needs(images, base_layer):
    def image(tag, n, **labels):
        content = layer(e(f"prune-{n}", data=b"x" * n))
        load(images, mkimage.docker_archive(tag, [base_layer, content], mkimage.image_config([base_layer, content], Labels=labels)))

    def prune(filters):
        status, doc = images.json("POST", "/images/prune?filters=" + json.dumps(filters).replace('"', "%22").replace(" ", ""))
        assert status == 200, doc
        return doc

    image(None, 11, k="v")
    image(None, 12)
    image("prune:1", 13)
    image("prune:2", 14, keep="1")
    images.ok("create", "--name", "holder", "--network", "none", "prune:1")
    first = prune({"label": ["k=v"]})
    assert first["SpaceReclaimed"] == 11 and [list(d) for d in first["ImagesDeleted"]] == [["Deleted"], ["Deleted"]]
    assert prune({})["SpaceReclaimed"] == 12
    assert prune({"dangling": ["true"]}) == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    tags = prune({"dangling": ["false"], "until": ["2020-01-01"]})
    assert tags == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    kept = prune({"dangling": ["false"], "label!": ["keep"], "label": ["nothing-has-this"]})
    assert kept["ImagesDeleted"] is None
    done = prune({"dangling": ["false"], "label": ["keep"]})
    assert done["ImagesDeleted"][0] == {"Untagged": "prune:2"} and done["SpaceReclaimed"] == 14
    assert images.inspect("prune:1")["RepoTags"] == ["prune:1"]
    assert images.json("POST", "/images/prune?filters={%22x%22:[%221%22]}") == (400, {"message": "invalid filter 'x'"})


@pytest.mark.gantry
@pytest.mark.parametrize("broken", ["second-layer", "config", "cut"])
def test_a_load_that_fails_leaves_nothing(images, base_layer, broken):
    good = layer(e("good", data=os.urandom(100_000)))
    bad = layer(e("bad", data=b"b"))
    config = mkimage.image_config([base_layer, good, bad])
    archive = mkimage.docker_archive("half:1", [base_layer, good, bad], config)
    if broken == "second-layer":
        archive = mkimage.docker_archive("half:1", [base_layer, good, bad], mkimage.image_config([base_layer, good, bad + b"\0" * 512]))
    elif broken == "config":
        archive = archive.replace(b'"rootfs"', b'"rootft"')
    else:
        archive = archive[:len(archive) - 60_000]
    before = disk(images)
    said = load(images, archive)
    assert "error" in said[-1], said
    assert disk(images) == before
    assert images.cli("image", "inspect", "half:1").returncode == 1


def test_loads_removals_and_tags_at_once(images, base_layer):
    """Whatever wins, the image is whole afterwards, and once it is removed nothing of it is left."""
    top = layer(e("top", data=os.urandom(200_000)))
    archive = mkimage.docker_archive("race:1", [base_layer, top])
    before = disk(images) if not images.external else None

    def act(n):
        if n % 4 == 0:
            images.http("DELETE", "/images/race:1?force=1")
        elif n % 4 == 1:
            images.http("POST", f"/images/race:1/tag?repo=race&tag=t{n}")
        else:
            said = load(images, archive)
            assert said[-1] == {"stream": "Loaded image: race:1\n"}, said
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(64)))
    load(images, archive)
    assert images.ok("run", "--rm", "--network", "none", "race:1", "stat", "-c", "%s", "/top") == "200000"
    image_id = images.inspect("race:1")["Id"]
    images.ok("rmi", "-f", image_id)
    if before is not None:
        assert disk(images) == before


def test_an_image_is_not_removed_below_a_container_that_is_made(images, base_layer):
    top = layer(e("word", data=b"whole"))
    archive = mkimage.docker_archive("below:1", [base_layer, top])
    load(images, archive)

    def remove(_):
        images.http("DELETE", "/images/below:1")
        load(images, archive)

    def make():
        status, doc = images.json("POST", "/containers/create", {
            "Image": "below:1", "Cmd": ["cat", "/word"], "HostConfig": {"NetworkMode": "none"}})
        assert status in (201, 404), doc
        return [doc["Id"]] if status == 201 else []
    made = []
    with ThreadPoolExecutor(2) as pool:
        removals = [pool.submit(remove, n) for n in range(12)]
        while not (made and all(r.done() for r in removals)):
            made += make()
    for name in made[:2] + made[-2:]:
        assert images.ok("start", "-a", name) == "whole"


@pytest.mark.gantry
@pytest.mark.parametrize("what", ["load", "import", "remove"])
def test_killed_in_the_middle_nothing_half_is_left(private_daemon, base_layer, what):
    eng = private_daemon
    big = layer(*(e(f"f{n}", data=os.urandom(20_000)) for n in range(1500)))
    archive = mkimage.docker_archive("big:1", [base_layer, big])
    if what == "remove":
        load(eng, archive)
    before = disk(eng)
    args = {"load": ("POST", "/images/load", archive), "import": ("POST", "/images/create?fromSrc=-&repo=imp", big),
            "remove": ("DELETE", "/images/big:1", None)}[what]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: eng.http(*args, TAR if args[2] else None))
        began = time.monotonic()
        while disk(eng) == before and time.monotonic() - began < 30:
            time.sleep(0.001)
        time.sleep(0.02)
        eng.kill9()
        try:
            asked.result()
        except (ConnectionError, OSError, ValueError):
            pass
    eng.start()
    tags = [t for i in eng.json("GET", "/images/json?all=1")[1] for t in i["RepoTags"]]
    assert eng.ok("run", "--rm", "--network", "none", "busybox", "echo", "whole") == "whole"
    assert not os.listdir(eng.data_root / "tmp")
    for tag in set(tags) - {"busybox:latest"}:
        assert len(eng.ok("run", "--rm", "--network", "none", tag, "sh", "-c", "ls / | wc -l")) >= 4 if tag == "big:1" else True
        eng.ok("rmi", tag)
    left = disk(eng)
    base = len(eng.inspect("busybox")["RootFS"]["Layers"])
    assert len([p for p in left if "layers/sha256/" in p or "layers/erofs/" in p]) == base
    assert len([p for p in left if "blobs/sha256/" in p]) == base + 1, left


@pytest.fixture
def small_disk_daemon(workdir):
    """A gantryd whose data root is a file system of 200 MiB."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="small-", dir=workdir))
    (root / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200M", "tmpfs", str(root / "data")], check=True)
    try:
        eng = Daemon(root)
        eng.start()
        yield eng
        eng.stop()
    finally:
        subprocess.run(["umount", str(root / "data")], check=True)
    leaks.assert_nothing_left(eng)


def bomb():
    """A layer of 512 MiB of zeros, compressed to a few MiB."""
    head = tarfile.TarInfo("zeros")
    head.size = 512 << 20
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(head.tobuf())] + [packer.compress(bytes(1 << 20)) for _ in range(512)]
    return b"".join(parts) + packer.flush()


@pytest.mark.gantry
def test_a_bomb_does_not_fill_the_disk(small_disk_daemon, base_layer):
    eng, packed = small_disk_daemon, bomb()
    members = [e("c.json", data=mkimage.image_config([b""])), e("l.tar", data=packed), e("manifest.json", data=json.dumps(
        [{"Config": "c.json", "RepoTags": ["bomb:1"], "Layers": ["l.tar"]}]).encode())]
    for archive in (packed, mkimage.tar_bytes(members)):
        assert "no space left on device" in load(eng, archive)[-1]["error"]
        assert disk(eng) == {"layers/sha256", "layers/erofs", "content/blobs", "content/blobs/sha256", "content/partial"}
    status, doc = eng.json("POST", "/images/create?fromSrc=-&repo=bomb", packed, headers=TAR)
    assert status == 500 and "no space left on device" in doc["message"]
    assert disk(eng) == {"layers/sha256", "layers/erofs", "content/blobs", "content/blobs/sha256", "content/partial"}
    assert load(eng, mkimage.docker_archive("busybox:latest", [base_layer])) == [{"stream": "Loaded image: busybox:latest\n"}]
