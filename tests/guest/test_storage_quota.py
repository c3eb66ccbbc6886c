"""`--storage-opt size`: project quotas of the file system that the data root is on."""
import shutil
import subprocess

import pytest

import conftest
import vm

DISK_BYTES = 512 << 20
DISK = "/dev/vdb"
FORMAT = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
MODULE = {"ext4": "quota_v2", "xfs": "xfs"}
MOUNT = {"ext4": "prjquota", "xfs": "pquota"}


# One boot is enough for the short suite: XFS, which dockerd asks for, where it can be made.
KINDS = sorted(FORMAT) if conftest.FULL else ["xfs" if shutil.which("mkfs.xfs") else "ext4"]


@pytest.fixture(scope="module", params=KINDS)
def guest(request, workdir, image_tar):
    tool = FORMAT[request.param]
    if not shutil.which(tool[0]):
        pytest.skip(f"no {tool[0]} here")

    class WithQuota(vm.Guest):
        def images(self):
            images = super().images()
            subprocess.run([*tool, str(images[-1])], check=True, capture_output=True)
            return images

    guest = conftest.boot("new", workdir / f"quota-{request.param}", kind=WithQuota, disks=[DISK_BYTES], swap=False)
    try:
        guest.ok(f"guest-load {MODULE[request.param]}")
        status, out = guest.script(f"mkdir -p /mnt/q && mount -t {request.param} -o {MOUNT[request.param]} {DISK} /mnt/q")
        assert status == 0, out + guest.ok("dmesg | tail -20")
        guest.start_daemon("--data-root", "/mnt/q/data")
        guest.engine.ok("load", "-i", str(image_tar))
        yield guest
        guest.engine.remove_all()
        guest.check_nothing_left()
    finally:
        guest.stop()


def fill(megabytes, name="f"):
    return f"dd if=/dev/zero of=/{name} bs=1M count={megabytes} 2>&1; ls -l /{name}"


def run(engine, script, *options):
    return engine.cli("run", "--rm", "--network", "none", *options, "busybox", "sh", "-c", script).stdout


def test_a_container_gets_no_more_than_its_size(guest):
    engine = guest.engine
    out = run(engine, fill(20), "--storage-opt", "size=10m")
    assert "No space left on device" in out or "Disk quota exceeded" in out, out
    written = int(out.splitlines()[-1].split()[4])
    assert 8 << 20 < written <= 10 << 20
    assert "20+0 records out" in run(engine, fill(20))


def test_what_a_container_sees(guest):
    out = run(guest.engine, "df -k / | tail -1", "--storage-opt", "size=64m")
    assert int(out.split()[1]) == 64 << 10


def test_each_counts_for_itself_and_for_good(guest):
    """Two containers, a restart of the daemon in between, and a removal that gives the space back."""
    engine = guest.engine
    for name in ("aa", "bb"):
        engine.ok("run", "-d", "--name", name, "--network", "none", "--storage-opt", "size=16m", "busybox", "sleep", "9999")
        assert "12+0 records out" in engine.ok("exec", name, "sh", "-c", fill(12))
    assert engine.inspect("aa")["HostConfig"]["StorageOpt"] == {"size": "16m"}
    guest.kill_daemon()
    guest.start_daemon("--data-root", "/mnt/q/data")
    engine.ok("run", "-d", "--name", "cc", "--network", "none", "--storage-opt", "size=16m", "busybox", "sleep", "9999")
    assert "12+0 records out" in engine.ok("exec", "cc", "sh", "-c", fill(12))
    assert "12+0 records out" not in engine.cli("exec", "aa", "sh", "-c", fill(12, "g")).stdout
    engine.ok("rm", "-f", "aa", "bb", "cc")
    assert "12+0 records out" in run(engine, fill(12), "--storage-opt", "size=16m")


@pytest.mark.parametrize("option, text", [
    ("size=x", "invalid size: 'x'"), ("size=-1", "invalid size: '-1'"), ("zz=1", "Unknown option zz"),
])
def test_refused(guest, option, text):
    done = guest.engine.cli("run", "--rm", "--network", "none", "--storage-opt", option, "busybox", "true")
    assert done.returncode == 125 and text in done.stderr
    assert guest.engine.ok("ps", "-aq") == ""
