"""Push to a registry on loopback; that what was pulled goes out byte for byte; round trips with skopeo."""
import json
import shutil
import subprocess
import urllib.parse

import mkimage
import pytest
import registries
from engine import wait_for
from fakeregistry import FakeRegistry
from registries import lines, pull, statuses
from test_registry import clean, events, manifest, registry, short  # noqa: F401

pytestmark = pytest.mark.skipif(registries.registry_program() is None,
                                reason="no docker-registry (Debian: apt-get install docker-registry)")
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")


def push(eng, name, tag="", **query):
    query |= {"tag": tag} if tag else {}
    path = f"/images/{name}/push?" + urllib.parse.urlencode(query)
    status, _, body = eng.http("POST", path, timeout=300)
    return status, lines(body)


def load(eng, name, layers):
    archive = mkimage.docker_archive(name, layers)
    status, _, body = eng.http("POST", "/images/load?quiet=1", body=archive,
                               headers={"Content-Type": "application/x-tar"})
    assert status == 200 and b"errorDetail" not in body, body


@pytest.fixture(scope="module")
def layers(base_layer):
    return [base_layer, registries.noise_layer("p", 2_000_000)]


def test_a_push_tells_what_docker_tells(clean, registry, layers):  # noqa: F811
    name = f"{registry.host}/p/first"
    load(clean, f"{name}:v1", layers)
    status, stream = push(clean, name, "v1")
    assert status == 200
    assert stream[0] == {"status": f"The push refers to repository [{name}]"}
    ids = [short(registries.digest(layer)) for layer in layers]
    assert [row["id"] for row in stream if row.get("status") == "Preparing"] == ids[::-1]
    for ident in ids:
        assert statuses(stream, ident) == ["Preparing", "Pushed"]
    there = manifest(registry, "p/first", "v1")
    assert there["mediaType"] == registries.DOCKER_MANIFEST
    aux = stream[-1]["aux"]
    assert stream[-1] == {"progressDetail": {}, "aux": aux} and list(aux) == ["Tag", "Digest", "Size"]
    assert stream[-2] == {"status": f"v1: digest: {aux['Digest']} size: {aux['Size']}"} and aux["Tag"] == "v1"
    found = registry.request("HEAD", "/v2/p/first/manifests/v1", headers={"Accept": registries.DOCKER_MANIFEST})
    assert found.headers["Docker-Content-Digest"] == aux["Digest"]
    assert int(found.headers["Content-Length"]) == aux["Size"]
    assert clean.inspect(f"{name}:v1")["RepoDigests"] == [f"{name}@{aux['Digest']}"]
    _, again = push(clean, name, "v1")
    for ident in ids:
        assert statuses(again, ident) == ["Preparing", "Layer already exists"]
    assert again[-1] == stream[-1]
    wait_for(lambda: f"push {name}:v1 {name}" in events(clean), "the event")
    assert clean.cli("push", f"{name}:v1").returncode == 0


def test_to_another_repository_layers_are_mounted(clean, registry, layers):  # noqa: F811
    first, second = f"{registry.host}/p/from", f"{registry.host}/p/to"
    load(clean, f"{first}:v1", layers)
    push(clean, first, "v1")
    clean.ok("tag", f"{first}:v1", f"{second}:v2")
    _, stream = push(clean, second, "v2")
    # Other repositories of this engine have them too: any of them may be named.
    for layer in layers:
        assert statuses(stream, short(registries.digest(layer)))[1].startswith("Mounted from p/"), stream
    assert manifest(registry, "p/to", "v2") == manifest(registry, "p/from", "v1")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_what_was_pulled_goes_out_as_it_came(clean, registry, layers, compression):  # noqa: F811
    source = registry.image(f"p/src-{compression}", "v1", layers, compression)
    name, copy = f"{registry.host}/p/src-{compression}", f"{registry.host}/p/copy-{compression}"
    pull(clean, name, "v1")
    with FakeRegistry() as other:
        there = f"{other.host}/x/copy"
        clean.ok("tag", f"{name}:v1", f"{there}:v1")
        _, stream = push(clean, there, "v1")
        assert stream[-1]["aux"]["Digest"] == source["digest"], stream
        data, media = other.manifests["x/copy", "v1"]
        assert (registries.digest(data), media) == (source["digest"], registries.OCI_MANIFEST)
        for layer in json.loads(data)["layers"]:
            assert registries.digest(other.blobs[layer["digest"]]) == layer["digest"]
    clean.ok("tag", f"{name}:v1", f"{copy}:v1")
    assert push(clean, copy, "v1")[1][-1]["aux"]["Digest"] == source["digest"]


def test_all_tags(clean, registry, layers):  # noqa: F811
    name = f"{registry.host}/p/tags"
    for tag in ("one", "two"):
        load(clean, f"{name}:{tag}", [layers[0], registries.noise_layer(tag, 10)])
    _, stream = push(clean, name)
    assert [row["aux"]["Tag"] for row in stream if "aux" in row] == ["one", "two"]
    assert clean.cli("push", "-a", name).returncode == 0


def test_what_cannot_be_pushed(clean, registry, layers):  # noqa: F811
    name = f"{registry.host}/p/nothere"
    refers = {"status": f"The push refers to repository [{name}]"}

    def failure(text):
        return {"errorDetail": {"message": text}, "error": text}
    assert push(clean, name, "v1") == (200, [
        refers, failure(f"An image does not exist locally with the tag: {name}")])
    load(clean, f"{name}:v1", layers)
    assert push(clean, name, "v2") == (200, [refers, failure(f"tag does not exist: {name}:v2")])
    assert push(clean, "UPPER", "x")[0] == 400 and push(clean, name, "a:b") == (400, [{"message": "invalid tag format"}])
    digest = "sha256:" + "1" * 64
    assert push(clean, f"{name}@{digest}")[1][-1] == failure("cannot push a digest reference")
    status, body = push(clean, name, "v1", platform='{"os":"linux","architecture":"s390x"}')
    assert status == 404 and "does not match the specified platform (linux/s390x)" in body[0]["message"]


def test_uploads_that_fail_are_told_and_tried_again(clean, layers):  # noqa: F811
    with FakeRegistry() as fake:
        name, failures = f"{fake.host}/p/bad", [1]

        def once(handler):
            if not failures:
                return False
            failures.pop()
            handler.body()
            return handler.answer(503)
        fake.on("^PATCH ", once)
        load(clean, f"{name}:v1", layers)
        _, stream = push(clean, name, "v1")
        assert stream[-1]["aux"]["Tag"] == "v1"
        assert any(row.get("status") == "Retrying in 5 seconds" for row in stream)
        fake.blobs.clear()
        fake.on("^POST .*uploads", lambda h: h.error(403, "DENIED", "requested access to the resource is denied"))
        _, stream = push(clean, name, "v1")
        assert stream[-1]["error"] == "denied: requested access to the resource is denied"


def test_distribution_inspect(clean, registry, layers):  # noqa: F811
    one = registry.image("p/dist", "v1", layers)
    index = registry.index("p/dist", "all", [(one, "amd64"), (registry.image("p/dist", "s", layers, architecture="s390x"),
                                                               "s390x")])
    status, found = clean.json("GET", f"/distribution/{registry.host}/p/dist:v1/json")
    assert (status, found["Descriptor"]) == (200, {"mediaType": one["mediaType"], "digest": one["digest"],
                                                   "size": one["size"]})
    assert [p["os"] for p in found["Platforms"]] == ["linux"]
    _, found = clean.json("GET", f"/distribution/{registry.host}/p/dist@{index['digest']}/json")
    assert [p["architecture"] for p in found["Platforms"]] == ["amd64", "s390x"]
    for name, want in [(f"{registry.host}/p/dist:no", (404, "manifest unknown: manifest unknown")),
                       ("1" * 64, (500, "no manifest found for full image ID")),
                       ("UPPER", (400, "invalid reference format: repository name (library/UPPER) must be lowercase"))]:
        status, body = clean.json("GET", f"/distribution/{name}/json")
        assert (status, body["message"]) == want


@needs_skopeo
def test_round_trip_with_skopeo(clean, registry, layers, tmp_path):  # noqa: F811
    name = f"{registry.host}/p/skopeo"
    load(clean, f"{name}:v1", layers)
    _, stream = push(clean, name, "v1")
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:v1"],
                         check=True, capture_output=True).stdout
    assert registries.digest(raw) == stream[-1]["aux"]["Digest"]
    subprocess.run(["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
                    f"docker://{name}:v1", f"docker://{name}:v2"], check=True)
    _, stream = pull(clean, name, "v2")
    assert {"status": f"Digest: {registries.digest(raw)}"} in stream
