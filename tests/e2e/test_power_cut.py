"""A power cut, and kill -9, at each sync and each change of a name of what is done to images: every image is whole or
absent afterwards, what was answered is so, nothing lies about, and the same request again makes it right."""
import contextlib
import hashlib
import io
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile

import fakeregistry
import mkimage
import pytest
import registries
from conftest import FULL
from engine import Daemon

pytestmark = [pytest.mark.gantry, pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the tracer knows the calls of two architectures")]
PROGRAM = pathlib.Path(__file__).with_name("powercut.py")
CUTS, KILLS = (10**6, 10**6) if FULL else (6, 3)


def spread(items, count):
    """At most so many of them, evenly, with the last."""
    items = list(items)
    if len(items) <= count:
        return items
    return [items[(n + 1) * len(items) // count - 1] for n in range(count)]


class Scenario:
    """What is done to the image `name`; it is absent before and whole after it, or the other way round."""
    name, makes = "cut:1", True
    # Not those of the registry: a pull has more names than one.
    others = ["busybox:latest"]

    def __init__(self, top):
        self.top = top

    def prepare(self, eng):
        pass

    def act(self, eng):
        raise NotImplementedError

    def load(self, eng, name, *layers):
        status, _, body = eng.http("POST", "/images/load?quiet=1", mkimage.docker_archive(name, list(layers)),
                                   {"Content-Type": "application/x-tar"})
        assert status == 200 and b"errorDetail" not in body, body


class Load(Scenario):
    def act(self, eng):
        self.load(eng, self.name, *self.top)


class Delete(Load):
    makes = False

    def prepare(self, eng):
        super().act(eng)

    def act(self, eng):
        status, _ = eng.json("DELETE", f"/images/{self.name}")
        assert status in (200, 404)


class Prune(Delete):
    def prepare(self, eng):
        super().prepare(eng)
        # What a container uses is not pruned.
        eng.ok("create", "--name", "user", "busybox:latest", "true")

    def act(self, eng):
        status, doc = eng.json("POST", "/images/prune?filters=%7B%22dangling%22:%5B%22false%22%5D%7D")
        assert status == 200, doc


class Commit(Scenario):
    def prepare(self, eng):
        eng.ok("run", "--name", "source", "--network", "none", "busybox", "sh", "-c", "echo of the top >/top")

    def act(self, eng):
        status, doc = eng.json("POST", "/commit?container=source&repo=cut&tag=1")
        assert status == 201, doc


class Pull(Scenario):
    def __init__(self, top, registry):
        super().__init__(top)
        self.registry, self.name = registry, f"{registry.host}/cut:1"
        registry.image("cut", "1", top)

    def act(self, eng):
        status, stream = registries.pull(eng, self.name)
        assert status == 200 and "errorDetail" not in stream[-1], stream


@pytest.fixture(scope="module")
def registry(workdir):
    if registries.registry_program() is None:
        yield None
        return
    with registries.Registry(workdir / "cut-registry") as found:
        yield found


@pytest.fixture(params=[Load, Delete, Prune, Commit, Pull], ids=lambda kind: kind.__name__.lower())
def scenario(request, registry, base_layer):
    top = [base_layer, mkimage.tar_bytes([mkimage.entry("top", data=b"of the top\n")])]
    if request.param is not Pull:
        return request.param(top)
    if registry is None:
        pytest.skip("no docker-registry (Debian: apt-get install docker-registry)")
    return Pull(top, registry)


class Roots:
    """Daemons one after the other, each on a data root that is a copy."""

    def __init__(self, directory):
        self.dir, self.serial = directory, 0

    def make(self, fill=None):
        self.serial += 1
        eng = Daemon(self.dir / str(self.serial), ["--shards", "1"])
        if fill:
            fill(eng.data_root)
        return eng

    @contextlib.contextmanager
    def daemon(self, fill=None):
        eng = self.make(fill)
        eng.start()
        try:
            yield eng
        finally:
            if eng.alive():
                eng.stop()
            # Its keeper may be on its way out.
            shutil.rmtree(eng.workdir, ignore_errors=True)


@pytest.fixture
def roots(workdir):
    path = pathlib.Path(tempfile.mkdtemp(prefix="cut-", dir=workdir))
    yield Roots(path)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def tracer(eng, out, *args):
    command = [sys.executable, str(PROGRAM), str(eng.pid), str(eng.data_root), str(out), *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "following\n"
            yield process
        finally:
            process.terminate()


def filled_from(out, state):
    """Makes a data root of a state."""
    def fill(root):
        root.mkdir(mode=0o711)
        for path, (mode, content) in sorted(json.loads(state.read_text()).items()):
            to = root / path
            if content is None:
                to.mkdir()
            elif content == "":
                to.write_bytes(b"")
            else:
                shutil.copyfile(out / "content" / content, to)
            to.chmod(mode)
    return fill


def copied_from(source):
    return lambda root: subprocess.run(["cp", "-a", str(source), str(root)], check=True)


def layers_of(eng, name):
    """The diff ids of an image that is whole, by what saving it gives; none if it is absent."""
    status, doc = eng.json("GET", f"/images/{name}/json")
    if status == 404:
        return None
    assert status == 200, doc
    status, _, body = eng.http("GET", f"/images/{name}/get")
    assert status == 200, body[-500:]
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        [row] = json.load(tar.extractfile("manifest.json"))
        saved = ["sha256:" + hashlib.sha256(tar.extractfile(path).read()).hexdigest() for path in row["Layers"]]
    assert saved == doc["RootFS"]["Layers"]
    return saved


def check(eng, scenario):
    """Everything is whole or absent, and nothing else is there. Whether the image is."""
    for name in scenario.others:
        assert layers_of(eng, name)
    found = layers_of(eng, scenario.name)
    images = eng.json("GET", "/images/json?all=1")[1]
    layers = set()
    for image in images:
        layers.update(layers_of(eng, image["Id"]))
    content = eng.data_root / "content"
    on_disk = {"sha256:" + p.name for form in ("erofs", "sha256") for p in (eng.data_root / "layers" / form).iterdir()}
    assert on_disk == layers
    assert list((eng.data_root / "tmp").iterdir()) == []
    blobs = {p.name for p in (content / "blobs/sha256").iterdir()}
    assert {image["Id"].removeprefix("sha256:") for image in images} <= blobs
    for name in blobs:
        assert hashlib.sha256((content / "blobs/sha256" / name).read_bytes()).hexdigest() == name
    partial = {p.name for p in (content / "partial").iterdir()}
    assert not partial & blobs
    assert not pathlib.Path("/proc/self/mountinfo").read_text().count(str(eng.data_root / "layers"))
    return found is not None


def check_cut(eng, scenario):
    """The same, and an image that is being made has its name from the start."""
    if scenario.makes:
        assert all(image["RepoTags"] for image in eng.json("GET", "/images/json?all=1")[1])
    return check(eng, scenario)


def check_again(eng, scenario):
    """The same request makes it right."""
    scenario.act(eng)
    assert check(eng, scenario) == scenario.makes
    assert list((eng.data_root / "content/partial").iterdir()) == []
    if scenario.makes:
        assert eng.ok("run", "--rm", "--network", "none", scenario.name, "cat", "/top") == "of the top"
        status, doc = eng.json("DELETE", f"/images/{scenario.name}?force=1")
        assert status == 200, doc
        assert not check(eng, scenario)
    eng.remove_all()


def prepared(roots, scenario, base_layer):
    """A data root from which all begin; nothing of it is in flight."""
    eng = roots.make()
    eng.start()
    scenario.load(eng, "busybox:latest", base_layer)
    scenario.prepare(eng)
    eng.stop()
    return eng.data_root


def test_each_image_is_whole_or_absent(scenario, roots, base_layer):
    start = prepared(roots, scenario, base_layer)
    out = roots.dir / "states"
    with roots.daemon(copied_from(start)) as eng:
        with tracer(eng, out):
            scenario.act(eng)
            answered = {out / name for name in json.loads((out / "last").read_text()).values()}
            states = sorted(out.glob("[0-9]*"))
        assert check(eng, scenario) == scenario.makes
    calls = int((out / "calls").read_text())
    print(scenario.name, calls, "calls,", len(states), "states")
    assert len(states) > 4 and calls > 4
    seen = set()
    for state in sorted({*spread(states, CUTS), *answered}):
        print("at", state.name)
        with roots.daemon(filled_from(out, state)) as eng:
            here = check_cut(eng, scenario)
            seen.add(here)
            if state in answered:
                assert here == scenario.makes, "what was answered is not so"
            check_again(eng, scenario)
    assert len(seen) == 2, "no cut came before it was done, or none after"
    for nth in spread(range(1, calls + 1), KILLS):
        print("kill at", nth)
        with roots.daemon(copied_from(start)) as eng:
            with tracer(eng, roots.dir / "none", str(nth)):
                with contextlib.suppress(OSError, AssertionError, ValueError):
                    scenario.act(eng)
            if not eng.alive():
                eng.process.wait()
                eng.start()
            check_cut(eng, scenario)
            check_again(eng, scenario)


def test_a_download_whose_beginning_was_lost_is_fetched_again(roots, base_layer):
    """Its bytes are not synced while it goes on; what is there may be anything."""
    with fakeregistry.FakeRegistry() as fake, roots.daemon() as eng:
        manifest = fake.image("lost", "1", [base_layer])
        digest = manifest["layers"][0]["digest"]
        partial = eng.data_root / "content/partial" / digest.removeprefix("sha256:")
        partial.write_bytes(bytes(1000))
        status, stream = registries.pull(eng, f"{fake.host}/lost", "1")
        assert status == 200 and "errorDetail" not in stream[-1], stream
        assert layers_of(eng, f"{fake.host}/lost:1")
        assert fake.count(f"GET .*{digest}") == 2 and not partial.exists()
