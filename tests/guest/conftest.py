"""Fixtures of the suite that runs gantryd in a virtual machine, on kernels and settings this machine may not have:
control groups of version 2 only, a kernel of Debian sid, and Debian 12's for what older kernels lack.

    python3 -m pytest tests/guest

Kernels are found or fetched as kernels.py says. Without qemu or without a kernel the tests are skipped with the reason.
"""
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).parent
REPO = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPO / "scripts"), str(REPO / "tests/e2e")]

import kernels  # noqa: E402
import mkimage  # noqa: E402
import vm  # noqa: E402

FULL = os.environ.get("GANTRY_FULL") == "1"


@pytest.fixture(scope="session")
def workdir():
    path = pathlib.Path(tempfile.mkdtemp(prefix="gty-guest-", dir="/var/tmp"))
    yield path
    if os.environ.get("GANTRY_KEEP_WORKDIR") != "1":
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def image_tar(workdir):
    path = workdir / "busybox.tar"
    path.write_bytes(mkimage.docker_archive("busybox:latest", [mkimage.busybox_layer(mkimage.find_busybox())]))
    return path


def boot(kernel_name, workdir, kind=vm.Guest, **options):
    """A guest of this kernel, up, without a daemon; or a skip."""
    try:
        vm.need_tools()
        guest = kind(kernels.find(kernel_name), workdir, mkimage.find_busybox(), **options)
    except kernels.Unavailable as reason:
        pytest.skip(str(reason))
    try:
        guest.boot()
    except BaseException:
        guest.stop()
        raise
    return guest


@pytest.fixture(scope="session")
def guests(workdir, image_tar):
    """Guests by kernel name, each booted when it is first asked for, with a daemon and the image."""
    running = {}

    def guest(name):
        if name not in running:
            running[name] = boot(name, workdir / name)
            running[name].start_daemon()
            running[name].engine.ok("load", "-i", str(image_tar))
        return running[name]

    yield guest
    for one in running.values():
        one.stop()


@pytest.fixture(scope="module", params=["new", "old"])
def shared_guest(request, guests):
    return guests(request.param)


@pytest.fixture
def guest(shared_guest):
    """A guest with a daemon; after the test it has no container, and no control group of one."""
    yield shared_guest
    if not shared_guest.daemon_runs():
        shared_guest.start_daemon()
    shared_guest.remove_containers()
    shared_guest.check_nothing_left()


@pytest.fixture
def engine(guest):
    return guest.engine
