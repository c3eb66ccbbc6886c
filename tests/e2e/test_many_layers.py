"""Images of many layers, and images that go to dockerd and come back (GANTRY_DOCKERD=unix:///...; skipped without)."""
import json
import os

import mkimage
import pytest
from engine import External
from test_copy import archive, members

# What one overlay takes, without what the engine lays over and under the image.
MAX_LAYERS = 497


def many(base, count):
    layers = [base]
    for number in range(1, count):
        data = str(number).encode()
        layers.append(mkimage.tar_bytes([mkimage.entry(f"l{number % 10}", data=data), mkimage.entry("last", data=data)]))
    return layers


@pytest.fixture
def loaded(engine, base_layer, tmp_path):
    tags = []

    def load(count, into=engine):
        tag = f"many:{count}"
        path = tmp_path / "many.tar"
        path.write_bytes(mkimage.docker_archive(tag, many(base_layer, count)))
        tags.append(tag)
        return tag, into.cli("load", "-i", str(path))
    yield load
    engine.remove_all()
    for tag in tags:
        engine.cli("rmi", "-f", tag)


@pytest.mark.gantry
@pytest.mark.parametrize("count", [120, 300, MAX_LAYERS])
def test_everything_works_with_many_layers(engine, loaded, count):
    tag, done = loaded(count)
    assert done.returncode == 0, done.stderr
    assert engine.ok("run", "--name", "deep", tag, "sh", "-c", "cat /last; rm /l1; echo x >/l2") == str(count - 1)
    changes = engine.json("GET", "/v1.48/containers/deep/changes")[1]
    assert [(c["Path"], c["Kind"]) for c in changes] == [("/l1", 2), ("/l2", 0)]
    assert members(archive(engine, "GET", "deep", "/last")[2])["last"].size == len(str(count - 1))
    if count < MAX_LAYERS:
        engine.ok("commit", "deep", "many:more")
        assert engine.ok("run", "--rm", "many:more", "sh", "-c", "cat /l2; ls /l1 2>/dev/null; true") == "x"
        engine.ok("rmi", "many:more")
    else:
        refused = engine.cli("commit", "deep", "many:more")
        assert "max depth exceeded" in refused.stderr
    engine.ok("rm", "deep")


@pytest.mark.gantry
def test_more_layers_are_refused_at_load(engine, loaded):
    _, done = loaded(MAX_LAYERS + 1)
    assert done.returncode and "max depth exceeded" in done.stderr


@pytest.fixture(scope="module")
def dockerd(workdir):
    host = os.environ.get("GANTRY_DOCKERD")
    if not host:
        pytest.skip("no dockerd: set GANTRY_DOCKERD")
    peer = External(host, workdir / "peer-cli")
    peer.start()
    return peer


@pytest.mark.gantry
def test_there_and_back(engine, dockerd, loaded, image_tar, tmp_path):
    """The ids, the configuration and the layers of an image are the same wherever it was."""
    dockerd.ok("load", "-i", str(image_tar))
    dockerd.cli("rm", "-f", "trip")
    dockerd.ok("run", "--name", "trip", "--network", "none", "busybox", "sh", "-c",
               "rm -r /tmp; mkdir /tmp; ln /bin/awk /awk; mkfifo /f; chown 5:6 /home; rm /etc/group; ln -s x /s")
    dockerd.ok("commit", "-c", "ENV A=b", "trip", "trip:1")
    dockerd.ok("rm", "trip")
    deep, done = loaded(120, dockerd)
    assert done.returncode == 0, done.stderr
    names = ["busybox:latest", "trip:1", deep]
    facts = lambda eng: [(i["Id"], i["RootFS"]["Layers"], i["Config"]["Env"], i["Created"], i["Size"])  # noqa: E731
                         for i in (json.loads(eng.ok("image", "inspect", name))[0] for name in names)]
    wanted = facts(dockerd)
    (tmp_path / "theirs.tar").write_bytes(dockerd.ok("save", *names, text=False))
    engine.ok("load", "-i", str(tmp_path / "theirs.tar"))
    assert facts(engine) == wanted
    (tmp_path / "ours.tar").write_bytes(engine.ok("save", *names, text=False))
    dockerd.ok("rmi", "-f", *names[1:])
    dockerd.ok("load", "-i", str(tmp_path / "ours.tar"))
    assert facts(dockerd) == wanted
    # One made here, as it is there.
    engine.ok("run", "--name", "trip", "busybox", "sh", "-c", "rm -r /tmp; mkdir /tmp; echo x >/tmp/y; rm /etc/group")
    engine.ok("commit", "trip", "made:1")
    (tmp_path / "made.tar").write_bytes(engine.ok("save", "made:1", text=False))
    dockerd.ok("load", "-i", str(tmp_path / "made.tar"))
    assert dockerd.inspect("made:1")["Id"] == engine.inspect("made:1")["Id"]
    trees = []
    for eng in (engine, dockerd):
        eng.cli("rm", "-f", "trip")
        eng.ok("create", "--name", "trip", "made:1", "true")
        tree = members(eng.http("GET", "/containers/trip/export")[2])
        trees.append({n: (m.type, m.mode, m.uid, m.gid, m.linkname) for n, m in tree.items()})
        eng.ok("rm", "trip")
    assert trees[0] == trees[1]
    assert {"tmp/y"} <= set(trees[0]) and "etc/group" not in trees[0]
    dockerd.ok("rmi", "-f", "made:1", *names[1:])
    engine.ok("rmi", "-f", "made:1", *names[1:])
