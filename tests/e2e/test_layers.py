"""Layers as tar and EROFS index, mounted: one mount for all, nothing in the mount table, both forms in one data root."""
import hashlib
import io
import os
import pathlib
import shutil
import sys
import tarfile

import pytest

from engine import wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import mkimage  # noqa: E402

pytestmark = pytest.mark.gantry


@pytest.fixture
def mounting(private_daemon):
    """A daemon that mounts layers; elsewhere there is nothing to see."""
    if private_daemon.debug()["kernel_ways"]["layers"] != "erofs":
        pytest.skip("layers cannot be mounted from their files here")
    return private_daemon


def layer_dirs(eng, form="erofs"):
    return sorted((eng.data_root / "layers" / form).iterdir())


def run(eng, *args):
    return eng.ok("run", "--rm", "--network", "none", *args)


def load(eng, tag, *layers):
    archive = eng.data_root.parent / "archive.tar"
    archive.write_bytes(mkimage.docker_archive(tag, list(layers)))
    eng.ok("load", "-i", str(archive))
    archive.unlink()


def test_the_form_is_said_and_a_layer_is_two_files(mounting):
    eng = mounting
    info = dict(eng.json("GET", "/info")[1]["DriverStatus"])
    assert info["Layer Form"] == "tar with EROFS index"
    [layer] = layer_dirs(eng)
    assert sorted(os.listdir(layer)) == ["layer.erofs", "layer.tar"]
    tar = (layer / "layer.tar").read_bytes()
    assert hashlib.sha256(tar).hexdigest() == layer.name
    # The blob of a layer that came plain is the same file.
    assert (layer / "layer.tar").stat().st_nlink == 2
    assert eng.inspect("busybox")["GraphDriver"]["Data"]["UpperDir"] == str(layer)
    assert not layer_dirs(eng, "sha256") and not (eng.data_root / "probe-layers").exists()


def test_one_mount_serves_all_and_goes_with_the_layer(mounting, base_layer):
    eng = mounting
    top = mkimage.tar_bytes([mkimage.entry("top", data=b"of the top\n")])
    load(eng, "two:1", base_layer, top)
    assert run(eng, "two:1", "cat", "/top") == "of the top"
    before = eng.debug()["open_fds"]
    for _ in range(5):
        assert run(eng, "two:1", "cat", "/top") == "of the top"
    wait_for(lambda: eng.debug()["open_fds"] <= before, "no descriptor is left")
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    assert str(eng.data_root / "layers") not in mounts
    eng.ok("rmi", "two:1")
    wait_for(lambda: eng.debug()["open_fds"] < before, "the mount of the layer is gone")
    assert len(layer_dirs(eng)) == 1


def test_containers_outlive_the_daemon_that_mounted(mounting):
    eng = mounting
    box = eng.ok("run", "-d", "--network", "none", "busybox", "sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")
    eng.kill9()
    # Its programs and files are those of the mount.
    eng.start()
    assert eng.ok("exec", box, "sh", "-c", "ls /bin | wc -l; echo new > /new; cat /new").split()[1] == "new"
    assert run(eng, "busybox", "echo", "again") == "again"
    eng.ok("restart", "-t", "1", box)
    assert eng.ok("exec", box, "cat", "/new") == "new"
    eng.ok("rm", "-f", box)


def test_directories_of_before_go_on(mounting, base_layer):
    eng = mounting
    [layer] = layer_dirs(eng)
    eng.stop()
    old = eng.data_root / "layers" / "sha256" / layer.name
    with tarfile.open(layer / "layer.tar") as tar:
        tar.extractall(old, filter="fully_trusted")
    shutil.rmtree(layer)
    eng.start()
    assert run(eng, "busybox", "echo", "from a directory") == "from a directory"
    # A new layer over it has the new form.
    load(eng, "mixed:1", base_layer, mkimage.tar_bytes([mkimage.entry("new", data=b"n"), mkimage.entry("bin/.wh.env")]))
    assert run(eng, "mixed:1", "sh", "-c", "cat /new; ls /bin/env 2>/dev/null | wc -l").split() == ["n0"]
    assert [p.name for p in layer_dirs(eng, "sha256")] == [layer.name] and len(layer_dirs(eng)) == 1
    eng.ok("rmi", "mixed:1")


def test_a_layer_that_lost_a_file_is_repaired_by_a_load(mounting, image_tar):
    eng = mounting
    [layer] = layer_dirs(eng)
    eng.stop()
    (layer / "layer.erofs").unlink()
    eng.start()
    assert eng.cli("run", "--rm", "--network", "none", "busybox", "true").returncode != 0
    eng.ok("load", "-i", str(image_tar))
    assert run(eng, "busybox", "echo", "repaired") == "repaired"


def test_what_an_overlay_sees_of_a_layer(mounting, base_layer):
    eng = mounting
    e, out = mkimage.entry, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link, mode in [("d", tarfile.DIRTYPE, "", 0o1777), ("d/f", tarfile.REGTYPE, "", 0o4755),
                                       ("d/hard", tarfile.LNKTYPE, "d/f", 0o4755), ("d/soft", tarfile.SYMTYPE, "f", 0o777),
                                       ("d/fifo", tarfile.FIFOTYPE, "", 0o600), ("d/null", tarfile.CHRTYPE, "", 0o666)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.mtime = kind, link, mode, 1234567890.5
            info.uid, info.gid, info.devmajor, info.devminor = 12, 34, 1, 3
            data = b"content\n" if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    load(eng, "kinds:1", base_layer, mkimage.tar_bytes([e("d/gone", data=b"x"), e("o/gone", data=b"x")]), out.getvalue(),
         mkimage.tar_bytes([e("d/.wh.gone"), e("o/.wh..wh..opq"), e("o/kept", data=b"k")]))
    script = """
        stat -c '%n %a %u %g %h %F %Y' /d/f /d/hard /d/soft /d/fifo
        cat /d/soft; echo lost > /d/null && ls /d /o; stat -c %t:%T /d/null
        echo more >> /d/f && cat /d/f; mv /d/hard /moved; rm -r /o; ls -d /o 2>&1; true
    """
    got = run(eng, "kinds:1", "sh", "-c", script)
    assert got.splitlines() == [
        "/d/f 4755 12 34 2 regular file 1234567890",
        "/d/hard 4755 12 34 2 regular file 1234567890", "/d/soft 777 12 34 1 symbolic link 1234567890",
        "/d/fifo 600 12 34 1 fifo 1234567890",
        "content", "/d:", "f", "fifo", "hard", "null", "soft", "", "/o:", "kept", "1:3",
        "content", "more", "ls: /o: No such file or directory",
    ]
    eng.ok("rmi", "kinds:1")


def test_many_layers(mounting, base_layer):
    eng = mounting
    layers = [mkimage.tar_bytes([mkimage.entry(f"n{i}", data=b"%d\n" % i)]) for i in range(120)]
    load(eng, "many:1", base_layer, *layers)
    assert run(eng, "many:1", "sh", "-c", "cat /n0 /n119; ls -d /n* | wc -l").split() == ["0", "119", "120"]
    eng.ok("rmi", "many:1")


