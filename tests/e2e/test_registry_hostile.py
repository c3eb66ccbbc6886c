"""Registries that lie, stall and refuse: a clear error, bounded memory, nothing unverified visible; and downloads that are
continued, shared and given up."""
import concurrent.futures
import gzip
import json
import os
import pathlib
import re
import tempfile
import threading
import time

import leaks
import mkimage
import pytest
import registries
from engine import Daemon, wait_for
from fakeregistry import FakeRegistry
from registries import digest, pull

pytestmark = pytest.mark.gantry
FULL = os.environ.get("GANTRY_FULL") == "1"


@pytest.fixture(scope="module")
def daemon(workdir):
    """Tries once, so that a failure is told at once."""
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="reg-", dir=workdir)), ["--max-download-attempts=1"])
    eng.start()
    yield eng
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.fixture
def fake():
    with FakeRegistry() as found:
        yield found


@pytest.fixture
def layer():
    return registries.noise_layer("n", 400_000)


def failure(eng, fake, repo="h/img", tag="v1", timeout=300):
    """A pull that must fail: the HTTP status and the text. Nothing of it may be visible."""
    status, stream = pull(eng, f"{fake.host}/{repo}", tag, timeout=timeout)
    text = stream[-1].get("error") or stream[-1].get("message")
    assert text, stream
    assert eng.http("GET", f"/images/{fake.host}/{repo}:{tag}/json")[0] == 404
    return status, text


def rss(eng):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{eng.pid}/status").read_text())[1]) * 1024


def cut(share, hang=None):
    """A hook: the blob's first bytes, then the end of the connection (or nothing until `hang` is set)."""
    def hook(handler):
        data = handler.fake.blobs[handler.path.rsplit("/", 1)[1]]
        if len(data) < 10_000:
            return False  # the config
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:int(len(data) * share)])
        handler.wfile.flush()
        if hang:
            hang.wait(120)
        handler.close_connection = True
    return hook


BLOBS = "^GET .*/blobs/"


@pytest.mark.parametrize("status,body,want", [
    (401, b"", (401, "unauthorized: authentication required")),
    (403, b'{"errors":[{"code":"DENIED","message":"no"}]}',
     (404, "pull access denied for HOST/h/img, repository does not exist or may require 'docker login': denied: no")),
    (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
     (404, "manifest for HOST/h/img:v1 not found: manifest unknown: manifest unknown")),
    (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', (429, "toomanyrequests: slow down")),
    (500, b"x", (500, "received unexpected HTTP status: 500 Internal Server Error")),
    (503, b"<html>", (500, "received unexpected HTTP status: 503 Service Unavailable")),
])
def test_refusals_of_a_manifest(daemon, fake, status, body, want):
    fake.on("/manifests/", lambda h: h.answer(status, body))
    got = failure(daemon, fake)
    assert (got[0], got[1].replace(fake.host, "HOST")) == want


def test_manifests_that_are_none(daemon, fake, layer):
    def answers(body, media):
        fake.hooks.clear()
        fake.on("/manifests/", lambda h: h.answer(200, body, media))
        return failure(daemon, fake)[1]
    assert "error unmarshalling content" in answers(b"<html>", "text/html")
    assert "invalid image manifest" in answers(b"{nonsense", registries.OCI_MANIFEST)
    assert "invalid image index" in answers(b"[]", registries.OCI_INDEX)
    assert "schema 1 support" in answers(
        b'{"schemaVersion":1,"name":"x","tag":"v1","fsLayers":[],"history":[]}',
        "application/vnd.docker.distribution.manifest.v1+prettyjws")
    artifact = fake.image("h/img", "v1", [layer], change=lambda m: m["config"].update(mediaType="application/vnd.x+json"))
    assert artifact["config"]["mediaType"] and answers(
        fake.manifests["h/img", "v1"][0], registries.OCI_MANIFEST) == (
        'Encountered remote "application/vnd.x+json"(unknown) when fetching')
    index = {"schemaVersion": 2, "mediaType": registries.OCI_INDEX, "manifests": []}
    for _ in range(6):  # each names the one before
        inner = fake.put_manifest("h/img", "v1", json.dumps(index).encode(), registries.OCI_INDEX)
        index = {"schemaVersion": 2, "mediaType": registries.OCI_INDEX, "manifests": [inner]}
    fake.hooks.clear()
    assert "nested indexes" in failure(daemon, fake)[1]


def test_an_endless_manifest_costs_no_memory(daemon, fake):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", registries.OCI_MANIFEST)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(1 << 14):
            handler.wfile.write(b" " * (1 << 16))
    fake.on("/manifests/", endless)
    before = rss(daemon)
    assert "is longer than 4194304 bytes" in failure(daemon, fake)[1]
    assert rss(daemon) - before < 32 << 20


def test_content_that_is_not_what_its_digest_says(daemon, fake, layer):
    manifest = fake.image("h/img", "v1", [layer])
    blob, config = manifest["layers"][0]["digest"], manifest["config"]["digest"]
    good = dict(fake.blobs)
    fake.blobs[blob] = bytes(len(good[blob]))
    assert failure(daemon, fake)[1] == f"filesystem layer verification failed for digest {blob}"
    fake.blobs[blob] = good[blob] + b"more"
    assert failure(daemon, fake)[1] == f"filesystem layer verification failed for digest {blob}"
    fake.blobs = good | {config: good[config].replace(b"amd64", b"riscv")}
    if fake.blobs[config] != good[config]:
        assert failure(daemon, fake)[1] == f"image config verification failed for digest {config}"
    fake.blobs = good
    fake.on("/manifests/sha256", lambda h: h.answer(200, fake.manifests["h/img", "v1"][0] + b" ", registries.OCI_MANIFEST))
    which = digest(fake.manifests["h/img", "v1"][0])
    status, stream = pull(daemon, f"{fake.host}/h/img", which)
    assert "manifest verification failed" in stream[-1]["message"]
    # None of it was kept as if it were right.
    fake.hooks.clear()
    assert "Downloaded newer" in pull(daemon, f"{fake.host}/h/img", "v1")[1][-1]["status"]
    daemon.http("DELETE", f"/images/{fake.host}/h/img:v1")


def test_layers_that_are_not_what_their_config_says(daemon, fake, layer):
    wrong = json.loads(mkimage.image_config([registries.noise_layer("o", 10)]))["rootfs"]
    fake.image("h/img", "v1", [layer], rootfs=wrong)
    assert "its image says" in failure(daemon, fake)[1]
    fake.image("h/img", "v1", [layer], rootfs={"type": "layers", "diff_ids": []})
    assert failure(daemon, fake)[1] == "layers from manifest don't match image configuration"
    fake.image("h/img", "v1", [layer], compression="none", rootfs=wrong)
    assert "its image says" in failure(daemon, fake)[1]
    junk = os.urandom(5000)
    fake.image("h/img", "v1", [layer], change=lambda m: m.update(layers=[fake.put_blob("h/img", junk)]))
    failure(daemon, fake)
    fake.image("h/img", "v1", [layer], os="windows")
    assert "operating system is not supported" in failure(daemon, fake)[1]


def test_a_bomb_is_no_layer(daemon, fake):
    size = 2 << 30 if FULL else 256 << 20
    bomb = gzip.compress(bytes(size), 9)
    fake.image("h/img", "v1", [b""], change=lambda m: m.update(layers=[fake.put_blob("h/img", bomb)]))
    before = rss(daemon)
    failure(daemon, fake)
    assert rss(daemon) - before < 32 << 20


def test_sizes_that_are_lies(daemon, fake, layer):
    manifest = fake.image("h/img", "v1", [layer], change=lambda m: m["layers"][0].update(size=1 << 40))
    assert failure(daemon, fake)[1] == "unexpected EOF"
    fake.image("h/img", "v1", [layer], change=lambda m: m["layers"][0].update(size=10))
    blob = manifest["layers"][0]["digest"]
    assert failure(daemon, fake)[1] == f"filesystem layer verification failed for digest {blob}"
    fake.image("h/img", "v1", [layer], change=lambda m: m["config"].update(size=1 << 40))
    assert "is longer than" in failure(daemon, fake)[1]

    def longer(handler):
        data = fake.blobs[blob]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) + 1000))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True
    fake.image("h/img", "v1", [layer])
    fake.on(f"^GET .*{blob}", longer)
    assert failure(daemon, fake)[1] in ("unexpected EOF", f"filesystem layer verification failed for digest {blob}")


def test_redirects_without_end(daemon, fake, layer):
    fake.image("h/img", "v1", [layer])
    fake.on(BLOBS, lambda h: h.answer(307, Location=h.path))
    assert failure(daemon, fake)[1].endswith("stopped after 10 redirects")


def test_a_cut_download_is_continued(daemon, fake, layer):
    manifest = fake.image("h/img", "v1", [layer])
    blob = manifest["layers"][0]
    fake.on(BLOBS, cut(0.9))
    assert failure(daemon, fake)[1] == "unexpected EOF"
    fake.hooks.clear()
    fake.requests.clear(), fake.headers.clear()
    _, stream = pull(daemon, f"{fake.host}/h/img", "v1")
    assert "Downloaded newer" in stream[-1]["status"], stream
    ranges = [h["Range"] for r, h in zip(fake.requests, fake.headers) if blob["digest"] in r and "Range" in h]
    assert ranges == [f"bytes={int(blob['size'] * 0.9)}-"]
    assert not (daemon.data_root / "content/partial" / blob["digest"].split(":")[1]).exists()
    daemon.http("DELETE", f"/images/{fake.host}/h/img:v1")
    # A registry without ranges sends it all again, and that is what counts.
    fake.ranges = False
    fake.on(BLOBS, cut(0.5))
    failure(daemon, fake)
    fake.hooks.clear()
    assert "Downloaded newer" in pull(daemon, f"{fake.host}/h/img", "v1")[1][-1]["status"]
    daemon.http("DELETE", f"/images/{fake.host}/h/img:v1")


def test_a_killed_daemon_goes_on_where_it_was(daemon, fake):
    layers = [registries.noise_layer(f"k{i}", 1_000_000) for i in range(2)]
    manifest = fake.image("h/img", "v1", layers)
    last, hang = manifest["layers"][1], threading.Event()
    fake.on(f"^GET .*{last['digest']}", cut(0.9, hang))
    thread = threading.Thread(target=lambda: ignored(pull, daemon, f"{fake.host}/h/img", "v1"))
    thread.start()
    partial = daemon.data_root / "content/partial"
    size = int(last["size"] * 0.9)

    def arrived():
        files = {f.name: f.stat().st_size for f in partial.iterdir()}
        whole = files.get(manifest["layers"][0]["digest"].split(":")[1]) == manifest["layers"][0]["size"]
        return whole and files.get(last["digest"].split(":")[1], 0) >= size
    wait_for(arrived, "90 % of the blob")
    daemon.kill9()
    hang.set()
    thread.join()
    fake.hooks.clear()
    fake.requests.clear(), fake.headers.clear()
    daemon.start()
    _, stream = pull(daemon, f"{fake.host}/h/img", "v1")
    assert "Downloaded newer" in stream[-1]["status"], stream
    blobs = [(r, h.get("Range")) for r, h in zip(fake.requests, fake.headers) if "/blobs/" in r
             and manifest["config"]["digest"] not in r]
    assert blobs == [(f"GET /v2/h/img/blobs/{last['digest']}", f"bytes={size}-")]
    assert not {layer["digest"].split(":")[1] for layer in manifest["layers"]} & {f.name for f in partial.iterdir()}
    daemon.http("DELETE", f"/images/{fake.host}/h/img:v1")


def ignored(f, *args):
    try:
        f(*args)
    except (OSError, ValueError):
        pass


def test_twenty_clients_fetch_each_blob_once(daemon, fake):
    shared = registries.noise_layer("shared", 600_000)
    names = []
    for i in range(4):
        fake.image("h/many", f"v{i}", [shared, registries.noise_layer(f"own{i}", 100_000)])
        names.append(f"v{i}")
    fake.on(BLOBS, lambda h: time.sleep(0.3) or False)  # long enough for all to meet
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda i: pull(daemon, f"{fake.host}/h/many", names[i % 4]), range(20)))
    for status, stream in done:
        assert status == 200 and stream[-1]["status"].startswith("Status: "), stream
    layers = {layer["digest"] for tag in names for layer in json.loads(fake.manifests["h/many", tag][0])["layers"]}
    assert len(layers) == 5
    for blob in layers:
        assert fake.count(f"^GET .*{blob}") == 1
    for tag in names:
        assert daemon.http("DELETE", f"/images/{fake.host}/h/many:{tag}")[0] == 200


def hang_up(eng, image, tag):
    """Begins a pull; the socket, to be closed."""
    sock = eng.connect()
    sock.sendall(f"POST /images/create?fromImage={image}&tag={tag} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    return sock


def test_a_client_that_goes_away_ends_its_download(daemon, fake, layer):
    manifest = fake.image("h/img", "v1", [layer])
    blob, hang = manifest["layers"][0]["digest"], threading.Event()
    fake.on(f"^GET .*{blob}", cut(0.5, hang))
    partial = daemon.data_root / "content/partial" / blob.split(":")[1]

    def half():
        return partial.exists() and partial.stat().st_size >= int(manifest["layers"][0]["size"] * 0.5)
    first, second = (hang_up(daemon, f"{fake.host}/h/img", "v1") for _ in range(2))
    wait_for(half, "half of the blob")
    first.close()
    time.sleep(0.5)
    import fcntl

    def locked():
        with open(partial) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    assert locked(), "the other client still waits for it"
    second.close()
    wait_for(lambda: not locked(), "the download is given up")
    assert fake.count(f"^GET .*{blob}") == 1
    hang.set()
    fake.hooks.clear()
    assert "Downloaded newer" in pull(daemon, f"{fake.host}/h/img", "v1")[1][-1]["status"]
    daemon.http("DELETE", f"/images/{fake.host}/h/img:v1")


def test_a_slow_registry_keeps_nobody_from_another(daemon, fake, layer):
    slow_manifest, stop = fake.image("h/slow", "v1", [layer]), threading.Event()

    def drip(handler):
        data = fake.blobs[slow_manifest["layers"][0]["digest"]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for byte in data:
            if stop.wait(0.2):
                break
            handler.wfile.write(bytes([byte]))
        handler.close_connection = True
    fake.on(f"^GET .*{slow_manifest['layers'][0]['digest']}", drip)
    fake.image("h/quick", "v1", [registries.noise_layer("q", 1000)])
    client = hang_up(daemon, f"{fake.host}/h/slow", "v1")
    wait_for(lambda: fake.count(slow_manifest["layers"][0]["digest"]), "the slow download began")
    assert "Downloaded newer" in pull(daemon, f"{fake.host}/h/quick", "v1")[1][-1]["status"]
    assert daemon.http("GET", "/_ping")[0] == 200
    client.close()
    if FULL:
        assert "bytes came in 60 seconds" in failure(daemon, fake, "h/slow", timeout=200)[1]
    stop.set()
    daemon.http("DELETE", f"/images/{fake.host}/h/quick:v1")


def test_a_failed_download_is_tried_again(workdir, fake, layer):
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="retry-", dir=workdir)), ["--max-download-attempts=3"])
    eng.start()
    fake.image("h/img", "v1", [layer])
    tries = [0.3, 0.6]

    def hook(handler):
        if b"rootfs" in fake.blobs[handler.path.rsplit("/", 1)[1]] or not tries:
            return False
        return cut(tries.pop(0))(handler)
    fake.ranges = False
    fake.on(BLOBS, hook)
    _, stream = pull(eng, f"{fake.host}/h/img", "v1")
    assert "Downloaded newer" in stream[-1]["status"] and not tries, stream
    assert {"status": "Retrying in 1 second", "progressDetail": {}} == {
        k: v for k, v in next(r for r in stream if "Retrying" in r["status"]).items() if k != "id"}
    eng.stop()
    leaks.assert_nothing_left(eng)
