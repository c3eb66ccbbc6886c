"""What layers are on kernels with and without EROFS that is mounted from files."""
import pytest

import conftest


def form(engine):
    return engine.json("GET", "/gantry/debug")[1]["kernel_ways"]["layers"]


def test_without_erofs_layers_are_directories(guest, engine):
    """Debian 12's EROFS (6.1) mounts no files; Debian sid's (7.2) is a module that nobody has loaded."""
    assert form(engine) == "directories"
    assert dict(engine.json("GET", "/info")[1]["DriverStatus"])["Layer Form"] == "plain directories"
    assert engine.ok("run", "--rm", "--network", "none", "busybox", "echo", "out") == "out"


@pytest.fixture(scope="module")
def loaded(workdir, image_tar):
    guest = conftest.boot("new", workdir / "layers", swap=False)
    try:
        guest.ok("guest-load erofs")
        guest.start_daemon()
        guest.engine.ok("load", "-i", str(image_tar))
        yield guest
        guest.engine.remove_all()
        guest.check_nothing_left()
    finally:
        guest.stop()


def test_with_erofs_layers_are_mounted(loaded):
    engine = loaded.engine
    assert form(engine) == "erofs"
    assert engine.ok("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo new > /new; cat /new") == "new"
    assert loaded.ok("ls /var/lib/gantry/layers/erofs/*").split() == ["layer.erofs", "layer.tar"]
    assert loaded.ok("ls /var/lib/gantry/layers/sha256 | wc -l").strip() == "0"
    # A daemon that finds no way to mount them unpacks them.
    loaded.stop_daemon()
    loaded.ok("rmmod erofs")
    loaded.start_daemon()
    assert form(loaded.engine) == "directories"
    assert loaded.engine.ok("run", "--rm", "--network", "none", "busybox", "echo", "out") == "out"
    assert loaded.ok("ls /var/lib/gantry/layers/erofs | wc -l").strip() == "0"
