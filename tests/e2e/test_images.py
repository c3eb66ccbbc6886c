"""Images: load, import, list, tag, history, delete."""
import json
import subprocess

import mkimage
import pytest


@pytest.fixture
def own_image(engine, base_layer, tmp_path):
    """Load an image under another name and forget it afterwards."""
    made = []

    def make(tag, layers=None, form="docker", compression="none", **config):
        layers = layers or [base_layer]
        doc = mkimage.image_config(layers, **config)
        build = mkimage.docker_archive if form == "docker" else mkimage.oci_archive
        path = tmp_path / "image.tar"
        path.write_bytes(build(tag, layers, doc, compression))
        made.append(tag)
        return engine.cli("load", "-i", str(path)), "sha256:" + mkimage.sha256(doc)
    yield make
    engine.remove_all()
    for tag in made:
        engine.cli("rmi", "-f", tag)


def test_load_says_what_and_config_counts(engine, own_image):
    done, image_id = own_image("cfg:1", Entrypoint=["echo", "entry"], Cmd=["cmd"], WorkingDir="/w", User="alice",
                               Env=["A=b", "PATH=/bin"], Labels={"m": "n"}, StopSignal="SIGUSR2")
    assert done.stdout == "Loaded image: cfg:1\n"
    assert engine.ok("run", "--rm", "cfg:1") == "entry cmd"
    assert engine.ok("run", "--rm", "cfg:1", "arg") == "entry arg"
    assert engine.ok("run", "--rm", "--entrypoint", "sh", "cfg:1", "-c", "pwd; id -un; echo $A") == "/w\nalice\nb"
    doc = json.loads(engine.ok("image", "inspect", "cfg:1"))[0]
    assert doc["Id"] == image_id and doc["RepoTags"] == ["cfg:1"]
    assert doc["Config"]["Labels"] == {"m": "n"} and doc["Config"]["StopSignal"] == "SIGUSR2"
    assert doc["Architecture"] == "amd64" and doc["Os"] == "linux" and doc["Size"] > 1_000_000
    assert doc["RootFS"]["Type"] == "layers" and len(doc["RootFS"]["Layers"]) == 1


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_compressed_layers(engine, own_image, compression):
    done, _ = own_image(f"comp-{compression}:1", compression=compression)
    assert done.returncode == 0, done.stderr
    assert engine.ok("run", "--rm", f"comp-{compression}:1", "echo", "ok") == "ok"


@pytest.mark.gantry  # dockerd with graph drivers wants a manifest.json too
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_oci_layout(engine, own_image, compression):
    done, image_id = own_image(f"oci-{compression}:1", form="oci", compression=compression, Env=[f"X={compression}"])
    assert done.returncode == 0 and f"oci-{compression}:1" in done.stdout, done.stderr
    assert engine.ok("run", "--rm", f"oci-{compression}:1", "sh", "-c", "exec /bin/echo ok") == "ok"


def test_layers_stack_with_whiteouts(engine, own_image, base_layer):
    e = mkimage.entry
    second = mkimage.tar_bytes([e("d", mkimage.tarfile.DIRTYPE, 0o755), e("d/a", data=b"a"), e("d/b", data=b"b"),
                                e("o", mkimage.tarfile.DIRTYPE, 0o755), e("o/gone", data=b"x"), e("f", data=b"2")])
    third = mkimage.tar_bytes([e("d/.wh.a", data=b""), e("d/c", data=b"c"), e("o", mkimage.tarfile.DIRTYPE, 0o755),
                               e("o/.wh..wh..opq", data=b""), e("o/new", data=b"n"), e("f", data=b"3")])
    done, _ = own_image("stack:1", [base_layer, second, third])
    assert done.returncode == 0, done.stderr
    assert engine.ok("run", "--rm", "stack:1", "sh", "-c", "ls d o; cat f").split() == \
        ["d:", "b", "c", "o:", "new", "3"] or \
        engine.ok("run", "--rm", "stack:1", "sh", "-c", "ls d; ls o; cat f").split() == ["b", "c", "new", "3"]


def test_modes_owners_and_times(engine, own_image, base_layer):
    e = mkimage.entry
    extra = mkimage.tar_bytes([e("suid", mode=0o4755, data=b"x", uid=7, gid=8),
                               e("sticky", mkimage.tarfile.DIRTYPE, 0o1777)])
    own_image("modes:1", [base_layer, extra])
    out = engine.ok("run", "--rm", "modes:1", "stat", "-c", "%a %u %g %Y", "/suid", "/sticky")
    assert out.splitlines() == ["4755 7 8 1704067200", "1777 0 0 1704067200"]


def test_list_tag_history_and_delete(engine, own_image):
    _, image_id = own_image("one:1", Labels={"k": "v"})
    engine.ok("tag", "one:1", "two:x")
    engine.ok("tag", "one:1", "host.example:5000/team/three")
    listed = json.loads(engine.http("GET", "/v1.48/images/json")[2])
    mine = [i for i in listed if i["Id"] == image_id][0]
    assert sorted(mine["RepoTags"]) == ["host.example:5000/team/three:latest", "one:1", "two:x"]
    assert engine.ok("images", "-q", "--no-trunc", "one") == image_id
    assert engine.ok("images", "--filter", "label=k=v", "--format", "{{.Repository}}", "one") == "one"
    assert engine.ok("images", "--filter", "reference=tw*", "--format", "{{.Tag}}") == "x"
    assert engine.ok("history", "-q", "--no-trunc", "one:1").split()[0] == image_id
    assert "layer 0 of mkimage" in engine.ok("history", "--no-trunc", "one:1")
    assert engine.ok("rmi", "two:x") == "Untagged: two:x"
    done = engine.cli("rmi", image_id)
    assert f"conflict: unable to delete {image_id[7:19]} (must be forced) - image is referenced in multiple " \
           "repositories" in done.stderr
    engine.ok("rmi", "host.example:5000/team/three")
    engine.ok("create", "--name", "user", "one:1", "true")
    done = engine.cli("rmi", "one:1")
    assert "conflict: unable to remove repository reference \"one:1\" (must force) - container " in done.stderr
    engine.ok("rm", "user")
    out = engine.ok("rmi", "one:1").splitlines()
    assert out[0] == "Untagged: one:1" and f"Deleted: {image_id}" in out
    assert engine.json("GET", "/images/one:1/json") == (404, {"message": "No such image: one:1"})


@pytest.mark.parametrize("bad", ["UPPER", "a:b:c", "a/../b", ":tag"])
def test_bad_reference(engine, bad):
    done = engine.cli("tag", "busybox", bad)
    assert done.returncode == 1
    assert "invalid reference format" in done.stderr or "repository name must be lowercase" in done.stderr \
        or "refusing to create" in done.stderr or "is not a valid repository/tag" in done.stderr


def test_import(engine, base_layer, tmp_path):
    path = tmp_path / "root.tar"
    path.write_bytes(base_layer)
    image_id = engine.ok("import", "-c", 'CMD ["echo","imported"]', "-c", "ENV Q=1", "-m", "note", str(path), "imp:1")
    assert image_id.startswith("sha256:")
    assert engine.ok("run", "--rm", "imp:1") == "imported"
    with open(path, "rb") as f:
        other = engine.ok("import", "-", stdin=f)
    assert other.startswith("sha256:")
    engine.ok("rmi", "imp:1", other)


def test_load_from_stdin_is_quiet_with_q(engine, image_tar):
    with open(image_tar, "rb") as f:
        done = engine.cli("load", "-q", stdin=f)
    assert done.stdout == "Loaded image: busybox:latest\n" and done.returncode == 0


def test_load_of_an_aborted_client_leaves_the_engine_well(engine, image_tar):
    size = image_tar.stat().st_size
    with engine.connect() as sock:
        sock.sendall(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\n"
                     b"Content-Length: %d\r\n\r\n" % size)
        sock.sendall(image_tar.read_bytes()[:size // 2])
    assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"
    proc = subprocess.run(["docker", "load", "-i", str(image_tar)], env=engine.env(), capture_output=True, timeout=180)
    assert proc.returncode == 0
