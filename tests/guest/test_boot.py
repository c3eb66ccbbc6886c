"""The daemon on each kernel: it starts, a container runs, it ends."""
import pytest


@pytest.fixture(scope="module", params=["new"])
def shared_guest(request, guests):
    return guests(request.param)


def test_a_container_runs(guest, engine):
    done = engine.cli("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_what_the_daemon_says_of_the_kernel(guest, engine):
    info = engine.json("GET", "/info")[1]
    assert info["KernelVersion"] == guest.kernel.release
    assert (info["CgroupVersion"], info["CgroupDriver"]) == ("2", "cgroupfs")
    assert info["Warnings"] in (None, [])
