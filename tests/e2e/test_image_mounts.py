"""Mounts of type image, and parts of images and volumes."""
import tarfile

import pytest

import mkimage


@pytest.fixture(scope="module")
def extra_tar(workdir):
    """Two layers: the second replaces one file and removes another."""
    entry = mkimage.entry
    first = mkimage.tar_bytes([
        entry("etc", tarfile.DIRTYPE, 0o755), entry("etc/f", data=b"one\n"), entry("etc/g", data=b"gone\n"),
        entry("sub", tarfile.DIRTYPE, 0o750, uid=7), entry("sub/h", data=b"h\n"),
        entry("link", tarfile.SYMTYPE, link="/etc"), entry("rel", tarfile.SYMTYPE, link="sub"),
        entry("esc", tarfile.SYMTYPE, link="../../..")])
    second = mkimage.tar_bytes([entry("etc/f", data=b"two\n"), entry("etc/.wh.g", data=b"")])
    path = workdir / "extra.tar"
    path.write_bytes(mkimage.docker_archive("extra:latest", [first, second]))
    return path


@pytest.fixture
def extra(engine, extra_tar):
    engine.ok("load", "-i", str(extra_tar))
    yield engine
    engine.remove_all()
    engine.cli("rmi", "-f", "extra")


def image(source="extra", target="/x", subpath=None, **more):
    options = {} if subpath is None else {"ImageOptions": {"Subpath": subpath}}
    return {"Type": "image", "Source": source, "Target": target} | options | more


def create(eng, *mounts, cmd="true", path="/containers/create", **host):
    body = {"Image": "busybox", "Cmd": ["sh", "-c", cmd],
            "HostConfig": {"NetworkMode": "none", "Mounts": list(mounts)} | host}
    return eng.json("POST", path, body)


def run(eng, *mounts, cmd, **host):
    """Output, or the error of the start without what the engine calls the place."""
    code, doc = create(eng, *mounts, cmd=cmd, **host)
    assert code == 201, doc
    code, error = eng.json("POST", f"/containers/{doc['Id']}/start")
    if code != 204:
        return code, error["message"]
    eng.ok("wait", doc["Id"])
    done = eng.cli("logs", doc["Id"])
    return done.stdout + done.stderr


def test_content_is_the_images_and_read_only(extra):
    out = run(extra, image(), cmd="ls /x; ls -A /x/etc; cat /x/etc/f; stat -c %u:%a /x/sub; touch /x/new;"
              " grep ' /x ' /proc/self/mountinfo")
    lines = out.splitlines()
    assert lines[:8] == ["esc", "etc", "link", "rel", "sub", "f", "two", "7:750"]
    assert "touch: /x/new: Read-only file system" in lines
    assert any(" /x ro," in line and " - overlay " in line for line in lines)


def test_by_cli_twice_and_under_a_read_only_root(extra):
    out = extra.ok("run", "--rm", "--network", "none", "--read-only", "--mount", "type=image,source=extra,target=/x/y",
                   "--mount", "type=image,source=busybox,target=/z,image-subpath=etc", "busybox",
                   "sh", "-c", "cat /x/y/etc/f; ls /z")
    assert out.split() == ["two", "group", "passwd"]


def test_same_image_as_the_root(extra):
    assert run(extra, image("busybox"), cmd="echo changed > /etc/mine; ls /x/etc") == "group\npasswd\n"


def test_inspect(extra):
    _, doc = create(extra, image())
    mounts = extra.inspect(doc["Id"])["Mounts"]
    assert [{k: v for k, v in m.items() if k != "Source"} for m in mounts] == [
        {"Type": "image", "Name": "extra", "Destination": "/x", "Mode": "", "RW": False, "Propagation": "rprivate"}]
    assert extra.inspect(doc["Id"])["HostConfig"]["Mounts"] == [image()]
    assert extra.ok("ps", "-a", "--format", "{{.Mounts}}") == "extra"
    assert extra.ok("ps", "-aq", "--no-trunc", "--filter", "volume=extra") == doc["Id"]


@pytest.mark.parametrize("subpath, out", [("sub", "h"), ("./etc/.", "f"), ("sub/../etc", "f"), ("rel", "h"), ("", "esc")])
def test_parts(extra, subpath, out):
    assert run(extra, image(subpath=subpath), cmd="ls /x").split()[0] == out


def test_a_file_of_an_image(extra):
    assert run(extra, image(subpath="etc/f"), cmd="cat /x; echo a >> /x").startswith("two\nsh: can't create /x: Read-only")


@pytest.mark.parametrize("subpath, code, begin, end", [
    ("nope", 404, "cannot access path ", "/nope: no such file or directory"),
    ("etc/g", 404, "cannot access path ", "/etc/g: no such file or directory"),
    ("link", 400, "path concatenation escapes the base directory, base: ", ", subpath: link"),
    ("esc", 400, "path concatenation escapes the base directory, base: ", ", subpath: esc"),
])
def test_parts_that_are_not_there(extra, subpath, code, begin, end):
    got, text = run(extra, image(subpath=subpath), cmd="true")
    assert got == code and text.startswith(begin) and text.endswith(end), text


@pytest.mark.parametrize("mounts, code, text", [
    ([image("nope")], 404, "No such image: nope:latest"),
    ([image("")], 400, "invalid mount config for type \"image\": field Source must not be empty"),
    ([image(target="")], 400, "invalid mount config for type \"image\": field Target must not be empty"),
    ([image(target="/")], 400, "invalid mount config for type \"image\": invalid specification: destination can't be '/'"),
    ([image(BindOptions={})], 400, "BindOptions must not be specified on mount type \"image\""),
    ([image(subpath="/etc")], 400, "invalid mount config for type \"image\": subpath must be a relative path within the volume"),
    ([image(subpath="a/../../b")], 400,
     "invalid mount config for type \"image\": subpath must be a relative path within the volume"),
    ([image(), image()], 400, "Duplicate mount point: /x"),
    ([{"Type": "tmpfs", "Target": "/x", "ImageOptions": {}}], 400,
     "invalid mount config for type \"tmpfs\": field ImageOptions must not be specified"),
])
def test_refused(extra, mounts, code, text):
    assert create(extra, *mounts) == (code, {"message": text})
    assert extra.ok("ps", "-aq") == ""


def test_older_clients(extra):
    assert create(extra, image(), path="/v1.47/containers/create") == (
        400, {"message": "Mount type \"Image\" needs API v1.48 or newer"})
    part = {"Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": {"Subpath": "a"}}
    assert create(extra, part, path="/v1.44/containers/create") == (
        400, {"message": "VolumeOptions.Subpath needs API v1.45 or newer"})


def test_the_image_is_held(extra, extra_tar):
    """Not removed by name while a container mounts it; with force only its name goes."""
    _, doc = create(extra, image(), cmd="cat /x/etc/f")
    image_id = extra.ok("inspect", "--format", "{{.Id}}", "extra")
    done = extra.cli("rmi", "extra")
    assert done.returncode == 1
    assert ("conflict: unable to remove repository reference \"extra\" (must force) - container "
            f"{doc['Id'][:12]} is using its referenced image {image_id[7:19]}") in done.stderr
    extra.ok("rmi", "-f", "extra")
    assert extra.cli("image", "inspect", "extra").returncode == 1
    assert extra.json("POST", f"/containers/{doc['Id']}/start")[0] == 204
    extra.ok("wait", doc["Id"])
    assert extra.ok("logs", doc["Id"]) == "two"
    extra.ok("rm", doc["Id"])
    extra.ok("load", "-i", str(extra_tar))
    extra.ok("rmi", "extra")


@pytest.mark.gantry
def test_a_held_image_outlives_the_daemon(private_daemon, extra_tar):
    eng = private_daemon
    eng.ok("load", "-i", str(extra_tar))
    _, doc = create(eng, image(), cmd="cat /x/etc/f")
    eng.ok("rmi", "-f", "extra")
    eng.kill9()
    eng.start()
    assert eng.json("POST", f"/containers/{doc['Id']}/start")[0] == 204
    eng.ok("wait", doc["Id"])
    assert eng.ok("logs", doc["Id"]) == "two"
    # An image of which only mounts are left cannot be removed by its id either.
    eng.ok("load", "-i", str(extra_tar))
    image_id = eng.ok("inspect", "--format", "{{.Id}}", "extra")
    assert "image is being used by stopped container" in eng.cli("rmi", image_id).stderr
    eng.ok("rm", doc["Id"])
    eng.ok("rmi", "extra")
    left = sorted(p.name for form in ("sha256", "erofs") for p in (eng.data_root / "layers" / form).iterdir())
    assert len(left) == 1, f"only busybox's layer is left: {left}"


def test_taken_over_from_another_container(extra):
    _, doc = create(extra, image())
    out = run(extra, cmd="ls /x/sub; touch /x/a", VolumesFrom=[doc["Id"]])
    assert out.splitlines()[0] == "h" and "Read-only file system" in out


def test_parts_of_volumes(engine):
    def part(subpath):
        return {"Type": "volume", "Source": "parts", "Target": "/x", "VolumeOptions": {"Subpath": subpath}}
    engine.cli("volume", "rm", "-f", "parts")
    engine.ok("run", "--rm", "--network", "none", "-v", "parts:/v", "busybox", "sh", "-c",
              "cd /v; mkdir etc sub; echo f > etc/f; ln -s /etc link; ln -s sub rel; ln -s ../../.. esc; ln -s loop loop")
    try:
        assert run(engine, part("rel"), cmd="touch /x/t && ls /x") == "t\n"
        for subpath, code, begin, end in [
            ("nope", 404, "cannot access path ", "/parts/_data/nope: no such file or directory"),
            ("link", 400, "path concatenation escapes the base directory, base: ", "/parts/_data, subpath: link"),
            ("esc", 400, "path concatenation escapes the base directory, base: ", "/parts/_data, subpath: esc"),
            ("loop", 500, "error while resolving symlinks in combined path ", ": EvalSymlinks: too many links"),
            ("etc/f/x", 500, "error while resolving symlinks in combined path ", "/_data/etc/f/x\": not a directory"),
        ]:
            got, text = run(engine, part(subpath), cmd="true")
            assert got == code and text.startswith(begin) and text.endswith(end), text
    finally:
        engine.remove_all()
        engine.ok("volume", "rm", "parts")
