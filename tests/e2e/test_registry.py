"""Pull from a registry on loopback: what comes, what the client is told, and that it is byte for byte the same."""
import json
import platform
import time

import mkimage
import pytest
import registries
from engine import wait_for
from registries import pull, statuses

pytestmark = pytest.mark.skipif(registries.registry_program() is None,
                                reason="no docker-registry (Debian: apt-get install docker-registry)")
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture(scope="module")
def registry(workdir):
    with registries.Registry(workdir / "registry") as found:
        yield found


@pytest.fixture
def clean(engine):
    """The engine, without images of a registry before and after."""
    def remove():
        for image in engine.json("GET", "/images/json")[1]:
            for name in (image["RepoTags"] or []) + (image["RepoDigests"] or []):
                if not name.startswith("busybox:"):
                    engine.http("DELETE", f"/images/{name}?force=1")
        for image in engine.json("GET", "/images/json")[1]:
            if image["RepoTags"] != ["busybox:latest"]:
                engine.http("DELETE", f"/images/{image['Id']}?force=1")
    remove()
    yield engine
    engine.remove_all()
    remove()


@pytest.fixture(scope="module")
def base(registry, base_layer):
    """An image that runs, of four layers; the engine has the lowest, but not as it is there."""
    first = mkimage.tar_bytes([mkimage.entry("first", data=b"1")])
    layers = [base_layer, first, registries.noise_layer("a", 3_000_000), registries.noise_layer("b", 10)]
    return registry.image("t/base", "v1", layers)


def events(eng):
    """Actions, ids and names of all events of images."""
    until = f"{time.time() + 0.01:.9f}"
    return eng.ok("events", "--since", "1", "--until", until, "--filter", "type=image", "--format",
                  "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}").splitlines()


def short(digest):
    return digest.removeprefix("sha256:")[:12]


def manifest(registry, repo, tag):
    accept = ", ".join((registries.DOCKER_MANIFEST, registries.OCI_MANIFEST, registries.OCI_INDEX))
    return json.load(registry.request("GET", f"/v2/{repo}/manifests/{tag}", headers={"Accept": accept}))


def test_a_pull_tells_what_docker_tells(clean, registry, base):
    name = f"{registry.host}/t/base"
    status, stream = pull(clean, name, "v1")
    assert status == 200
    assert stream[0] == {"status": "Pulling from t/base", "id": "v1"}
    assert stream[-2:] == [{"status": f"Digest: {base['digest']}"},
                           {"status": f"Status: Downloaded newer image for {name}:v1"}]
    for layer in manifest(registry, "t/base", "v1")["layers"]:
        assert statuses(stream, short(layer["digest"])) == [
            "Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
    for row in stream:
        if "progress" in row:
            assert row["status"] in ("Downloading", "Extracting") and row["progressDetail"].keys() == {"current", "total"}
    found = clean.inspect(f"{name}:v1")
    assert found["RepoTags"] == [f"{name}:v1"] and found["RepoDigests"] == [f"{name}@{base['digest']}"]
    assert clean.ok("run", "--rm", f"{name}:v1", "sh", "-c", "wc -c </a") == "3000000"
    status, again = pull(clean, name, "v1")
    assert [row["status"] for row in again][1:] == [
        f"Digest: {base['digest']}", f"Status: Image is up to date for {name}:v1"]
    wait_for(lambda: f"pull {name}:v1 {name}" in events(clean), "the event")


def test_the_cli_pulls_what_it_lacks(clean, registry, base):
    name = f"{registry.host}/t/base:v1"
    assert clean.json("POST", "/containers/create", {"Image": name})[0] == 404
    done = clean.cli("run", "--rm", name, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
    assert "Pull complete" in done.stderr and f"Downloaded newer image for {name}" in done.stderr
    assert f"Digest: {base['digest']}" in clean.ok("pull", name)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("docker", [False, True])
def test_every_form_of_a_layer(clean, registry, base_layer, compression, docker):
    if docker and compression == "zstd":
        pytest.skip("there is no such media type")
    repo = f"forms/{compression}-{'docker' if docker else 'oci'}"
    layers = [base_layer, registries.noise_layer("n", 1000)]
    there = registry.image(repo, "x", layers, compression, docker)
    status, stream = pull(clean, f"{registry.host}/{repo}", "x")
    assert status == 200 and "errorDetail" not in stream[-1], stream
    found = clean.inspect(f"{registry.host}/{repo}:x")
    assert found["RepoDigests"] == [f"{registry.host}/{repo}@{there['digest']}"]
    assert found["RootFS"]["Layers"] == [registries.digest(layer) for layer in layers]
    assert clean.ok("run", "--rm", f"{registry.host}/{repo}:x", "stat", "-c", "%s", "/n") == "1000"


def test_layers_that_are_here_are_not_fetched(clean, registry, base, base_layer):
    pull(clean, f"{registry.host}/t/base", "v1")
    other = registry.image("t/other", "v1", [base_layer, registries.noise_layer("c", 50)])
    before = len(registry.requests())
    _, stream = pull(clean, f"{registry.host}/t/other", "v1")
    layers = [layer["digest"] for layer in manifest(registry, "t/other", "v1")["layers"]]
    assert statuses(stream, short(layers[0])) == ["Already exists"]
    asked = [r for r in registry.requests()[before:] if "/blobs/" in r]
    assert [r for r in asked if layers[0] in r] == [] and len([r for r in asked if layers[1] in r]) == 1
    assert clean.inspect(f"{registry.host}/t/other:v1")["RepoDigests"] == [f"{registry.host}/t/other@{other['digest']}"]


def test_by_digest(clean, registry, base):
    name = f"{registry.host}/t/base"
    full = f"{name}@{base['digest']}"
    _, stream = pull(clean, name, base["digest"])
    assert stream[0] == {"status": "Pulling from t/base", "id": full}
    assert stream[-1] == {"status": f"Status: Downloaded newer image for {full}"}
    found = clean.inspect(full)
    assert found["RepoTags"] == [] and found["RepoDigests"] == [full]
    assert clean.ok("run", "--rm", full, "echo", "ok") == "ok"
    _, stream = pull(clean, full)
    assert stream[-1] == {"status": f"Status: Image is up to date for {full}"}


def test_platforms_of_an_index(clean, registry, base_layer):
    layers = [base_layer, registries.noise_layer("m", 10)]
    mine = registry.image("t/multi", "mine", layers)
    other = registry.image("t/multi", "other", layers, architecture="s390x")
    index = registry.index("t/multi", "v1", [(other, "s390x"), (mine, ARCH)])
    name = f"{registry.host}/t/multi"
    pull(clean, name, "v1")
    found = clean.inspect(f"{name}:v1")
    assert found["Architecture"] == ARCH and found["RepoDigests"] == [f"{name}@{index['digest']}"]
    _, stream = pull(clean, name, "v1", platform="linux/s390x")
    assert stream[-1]["status"] == f"Status: Downloaded newer image for {name}:v1"
    assert clean.inspect(f"{name}:v1")["Architecture"] == "s390x"
    status, stream = pull(clean, name, "v1", platform="linux/riscv64")
    text = "no matching manifest for linux/riscv64 in the manifest list entries"
    assert status == 200 and stream[-1] == {"errorDetail": {"message": text}, "error": text}
    _, stream = pull(clean, name, "mine", platform="linux/s390x")
    assert stream[-1]["status"] == (
        f"WARNING: image with reference {name}:mine was found but its platform (linux/{ARCH}) does not match the "
        "specified platform (linux/s390x)")


def test_all_tags(clean, registry, base_layer):
    for tag in ("one", "two"):
        registry.image("t/tags", tag, [base_layer, registries.noise_layer(tag, 10)])
    _, stream = pull(clean, f"{registry.host}/t/tags")
    assert {"status": "Pulling from t/tags", "id": "one"} in stream
    assert {"status": "Pulling from t/tags", "id": "two"} in stream
    clean.inspect(f"{registry.host}/t/tags:one")
    clean.inspect(f"{registry.host}/t/tags:two")
    assert clean.cli("pull", "-a", f"{registry.host}/t/tags").returncode == 0


def test_errors_before_the_stream(clean, registry, base):
    host, closed = registry.host, registries.free_port()
    name = f"{host}/t/base"
    for image, tag, want_status, text in [
        (name, "nosuch", 404, f"manifest for {name}:nosuch not found: manifest unknown: manifest unknown"),
        (f"{host}/t/nosuch", "", 404,
         f"repository {host}/t/nosuch not found: name unknown: repository name not known to registry"),
        (name, "a:b", 400, "invalid tag format"),
        ("UPPER", "x", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
        (f"127.0.0.1:{closed}/x", "x", 500,
         f'Get "http://127.0.0.1:{closed}/v2/": dial tcp 127.0.0.1:{closed}: connect: connection refused'),
        (name, "sha256:" + "7" * 64, 404,
         f"manifest for {name}@sha256:{'7' * 64} not found: manifest unknown: manifest unknown"),
    ]:
        status, body = pull(clean, image, tag)
        assert (status, body) == (want_status, [{"message": text}])
    status, body = pull(clean, name, "v1", platform="bad/x/y/z")
    assert (status, body[0]["message"]) == (400, '"bad/x/y/z": cannot parse platform specifier: invalid argument')


@pytest.mark.gantry
def test_nothing_is_left_of_a_pull(clean, registry, base):
    name = f"{registry.host}/t/base"
    pull(clean, name, "v1")
    root = clean.data_root / "content"
    assert list((root / "partial").iterdir()) == []
    blobs = {layer["digest"].removeprefix("sha256:") for layer in manifest(registry, "t/base", "v1")["layers"]}
    held = {blob.name for blob in (root / "blobs/sha256").iterdir()}
    assert blobs <= held and base["digest"].removeprefix("sha256:") in held
    clean.ok("rmi", f"{name}:v1")
    held = {blob.name for blob in (root / "blobs/sha256").iterdir()}
    assert not blobs & held
