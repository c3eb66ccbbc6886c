"""Many clients pull overlapping images while others delete, prune and run them: nothing is lost, no blob is fetched twice
while somebody has it, and only what Docker refuses is refused."""
import collections
import hashlib
import json
import pathlib
import random
import re
import shutil
import tempfile
import threading
import time

import fakeregistry
import mkimage
import pytest
import registries
from conftest import FULL
from engine import Daemon
from test_power_cut import layers_of

import leaks

pytestmark = pytest.mark.gantry
CLIENTS, IMAGES = 20, 8
LAYER_BYTES = 4_000_000 if FULL else 300_000
SECONDS = 60 if FULL else 8
# What Docker answers too when others work on the same images.
ALLOWED = {"run": (404, 409), "remove": (404, 409), "prune": (409,), "pull": ()}


@pytest.fixture
def fake():
    with fakeregistry.FakeRegistry() as found:
        yield found


@pytest.fixture
def images(fake, base_layer):
    """Images that share layers; each with what `/mine` says, and its manifest."""
    shared = [registries.noise_layer(f"shared-{n}", LAYER_BYTES) for n in range(3)]
    found = {}
    for n in range(IMAGES):
        mine = mkimage.tar_bytes([mkimage.entry("mine", data=f"of {n}\n".encode())])
        layers = [base_layer, *shared[:n % 3 + 1], mine]
        manifest = fake.image(f"crowd/{n}", "1", layers, Labels={"n": str(n)})
        found[f"{fake.host}/crowd/{n}:1"] = f"of {n}", manifest, [registries.digest(layer) for layer in layers]
    return found


@pytest.fixture
def eng(workdir):
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="crowd-", dir=workdir)))
    eng.start()
    yield eng
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)
    shutil.rmtree(eng.workdir, ignore_errors=True)


def fetched(fake):
    """How often the content of each blob was sent."""
    return collections.Counter(m[1] for r in fake.requests if (m := re.match(r"GET /v2/.+/blobs/(sha256:\w+)", r)))


def together(jobs):
    """Runs them at the same time; the first failure is told."""
    failed = []

    def guarded(job):
        try:
            job()
        except BaseException as e:  # noqa: BLE001 told below
            failed.append(e)
    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def slow(handler):
    """Long enough that all who want a blob want it at the same time."""
    time.sleep(0.05)
    return False


def pull(eng, name):
    status, stream = registries.pull(eng, name)
    assert status == 200 and "errorDetail" not in stream[-1], (name, status, stream)


def check(eng, names, images):
    """What is here is whole; what was pulled is here."""
    for name in names:
        assert layers_of(eng, name) == images[name][2]
    on_disk = {"sha256:" + p.name for form in ("erofs", "sha256") for p in (eng.data_root / "layers" / form).iterdir()}
    here = [layers_of(eng, image["Id"]) for image in eng.json("GET", "/images/json?all=1")[1]]
    assert on_disk == {layer for layers in here for layer in layers}
    assert list((eng.data_root / "content/partial").iterdir()) == []
    assert list((eng.data_root / "tmp").iterdir()) == []


def test_twenty_clients_fetch_each_blob_once(eng, fake, images):
    fake.on("GET /v2/.+/blobs/", slow)
    names = list(images)
    together([lambda n=n: [pull(eng, names[(n + k) % IMAGES]) for k in range(3)] for n in range(CLIENTS)])
    counts = fetched(fake)
    wanted = {blob["digest"] for _, manifest, _ in images.values() for blob in [manifest["config"], *manifest["layers"]]}
    assert counts == {digest: 1 for digest in wanted}
    check(eng, names, images)
    for name, (says, _, _) in images.items():
        assert eng.ok("run", "--rm", "--network", "none", name, "cat", "/mine") == says


class Crowd:
    def __init__(self, eng, images):
        self.eng, self.images, self.names = eng, images, list(images)
        self.until = time.monotonic() + SECONDS
        self.done, self.deleted, self.lock = collections.Counter(), collections.Counter(), threading.Lock()

    def count(self, what, status, deleted=()):
        with self.lock:
            self.done[what, status] += 1
            self.deleted.update(row["Deleted"] for row in deleted or () if "Deleted" in row)

    def forever(self, step, seed):
        dice = random.Random(seed)
        while time.monotonic() < self.until:
            step(dice.choice(self.names), dice)

    def pull(self, name, _):
        pull(self.eng, name)
        self.count("pull", 200)

    def remove(self, name, dice):
        status, doc = self.eng.json("DELETE", f"/images/{name}")
        self.count("remove", status, doc if status == 200 else ())
        assert status == 200 or status in ALLOWED["remove"], doc
        time.sleep(dice.random() / 5)

    def prune(self, _, dice):
        status, doc = self.eng.json("POST", "/images/prune?filters=%7B%22dangling%22:%5B%22false%22%5D%7D")
        self.count("prune", status, doc["ImagesDeleted"] if status == 200 else ())
        assert status == 200 or status in ALLOWED["prune"], doc
        time.sleep(dice.random())

    def run(self, name, dice):
        status, doc = self.eng.json("POST", "/containers/create", {
            "Image": name, "Cmd": ["cat", "/mine"], "HostConfig": {"NetworkMode": "none"}})
        self.count("run", status)
        if status != 201:
            assert status in ALLOWED["run"], doc
            time.sleep(dice.random() / 10)
            return
        # It has its image now, whatever the others do.
        box = doc["Id"]
        assert self.eng.ok("start", "-a", box) == self.images[name][0]
        self.eng.ok("rm", "-f", box)


def chain_ids(diff_ids):
    """How Docker names a layer on those below it."""
    chain = diff_ids[:1]
    for diff_id in diff_ids[1:]:
        chain.append("sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest())
    return chain


def test_nothing_is_lost_while_others_delete_prune_and_run(eng, fake, images):
    crowd = Crowd(eng, images)
    steps = [crowd.pull] * CLIENTS + [crowd.remove] * 3 + [crowd.prune] + [crowd.run] * 4
    together([lambda n=n, step=step: crowd.forever(step, n) for n, step in enumerate(steps)])
    print(json.dumps({f"{what} {status}": n for (what, status), n in sorted(crowd.done.items())}))
    for what in (("pull", 200), ("remove", 200), ("run", 201)):
        assert crowd.done[what] > 0, crowd.done
    # A blob is fetched again only after its layer was told to be gone.
    gone = collections.Counter()
    for _, manifest, layers in images.values():
        for blob, layer, chain in zip(manifest["layers"], layers, chain_ids(layers), strict=True):
            gone[blob["digest"]] = crowd.deleted[chain]
        gone[manifest["config"]["digest"]] = crowd.deleted[manifest["config"]["digest"]]
    counts = fetched(fake)
    assert counts and all(counts[digest] <= 1 + gone[digest] for digest in counts), (counts, gone)
    for name in images:
        pull(eng, name)
    check(eng, list(images), images)
    for name, (says, _, _) in images.items():
        assert eng.ok("run", "--rm", "--network", "none", name, "cat", "/mine") == says
    for name in images:
        assert eng.json("DELETE", f"/images/{name}")[0] == 200
    assert not any((eng.data_root / "layers/erofs").iterdir())
