"""Fixtures of the end-to-end suite.

Without GANTRY_TEST_HOST a real gantryd is started (binary from GANTRYD, or the newer of
target/release and target/debug) on a socket, data root and exec root of its own, and each
module ends with a leak check. With GANTRY_TEST_HOST=unix:///... the suite drives that engine
instead (for example the real dockerd, to check the expectations), and the tests marked
`gantry` are skipped.
"""
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "scripts"), str(pathlib.Path(__file__).parent)]

import leaks  # noqa: E402
import mkimage  # noqa: E402
from engine import Daemon, External  # noqa: E402

FULL = os.environ.get("GANTRY_FULL") == "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "gantry: needs a gantryd of our own (skipped on GANTRY_TEST_HOST)")


def pytest_collection_modifyitems(items):
    if os.environ.get("GANTRY_TEST_HOST"):
        for item in items:
            if item.get_closest_marker("gantry"):
                item.add_marker(pytest.mark.skip(reason="gantryd only"))


@pytest.fixture(scope="session")
def workdir():
    """A short path: a unix socket's name has a limit of 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="gty-e2e-", dir="/var/tmp"))
    yield path
    if os.environ.get("GANTRY_KEEP_WORKDIR") != "1":
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def image_tar(workdir):
    path = workdir / "busybox.tar"
    layer = mkimage.busybox_layer(mkimage.find_busybox())
    path.write_bytes(mkimage.docker_archive("busybox:latest", [layer]))
    return path


@pytest.fixture(scope="session")
def base_layer():
    return mkimage.busybox_layer(mkimage.find_busybox())


def start_guest_lane(eng):
    """Starts the threads that talk to services and that write logs nobody waits for; they stay."""
    # Datagrams are delivered when they are sent: nothing is tried again after the container is gone.
    eng.ok("run", "--rm", "--log-driver=gelf", "--log-opt=gelf-address=udp://127.0.0.1:9", "--log-opt=mode=non-blocking",
           "busybox", "echo", "started")


@pytest.fixture(scope="session")
def session_engine(workdir, image_tar):
    host = os.environ.get("GANTRY_TEST_HOST")
    eng = External(host, workdir / "cli") if host else Daemon(workdir / "main")
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    for _ in range(2):
        eng.ok("run", "--rm", "busybox", "true")
    if not host:
        start_guest_lane(eng)
    yield eng
    eng.remove_all()
    eng.stop()
    if not host:
        leaks.assert_nothing_left(eng)


@pytest.fixture(scope="module", autouse=True)
def leak_check(request):
    """Nothing of the shared engine may be more after a module than before it."""
    if "session_engine" not in {n for i in request.session.items if i.module is request.module
                                for n in i.fixturenames}:
        yield
        return
    eng = request.getfixturevalue("session_engine")
    if eng.external:
        yield
        eng.remove_all()
        return
    start_guest_lane(eng)  # An earlier module may have started the daemon again.
    before = leaks.settled(eng)
    yield
    eng.remove_all()
    leaks.assert_no_growth(eng, before)


@pytest.fixture
def engine(session_engine):
    """The shared engine, without containers at the end of the test."""
    yield session_engine
    session_engine.remove_all()


@pytest.fixture
def private_daemon(workdir, image_tar, request):
    """A gantryd of the test's own, with the image loaded; nothing may be left of it afterwards."""
    eng = Daemon(pathlib.Path(tempfile.mkdtemp(prefix="own-", dir=workdir)))
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    yield eng
    if not eng.alive():
        eng.start()
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)
