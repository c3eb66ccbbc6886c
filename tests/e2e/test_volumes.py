"""Volumes and mounts: the API of volumes, and what containers see of volumes, binds and tmpfs."""
import contextlib
import io
import json
import os
import shutil
import tarfile
import time
import urllib.parse
import uuid

import mkimage
import pytest
from engine import wait_for

NONE = {"NetworkMode": "none"}
API = "/v1.48"


@pytest.fixture
def eng(engine):
    """The shared engine; no volume is left of a test."""
    yield engine
    engine.remove_all()
    for name in engine.ok("volume", "ls", "-q").split():
        engine.ok("volume", "rm", name)


@pytest.fixture
def host_dir(eng):
    """A path that does not exist on the engine's machine; what comes to be there goes."""
    path = f"/var/tmp/gty-vol-{uuid.uuid4().hex[:12]}"
    yield path
    eng.ok("run", "--rm", "--network", "none", "-v", "/var/tmp:/t", "busybox", "rm", "-rf", f"/t/{os.path.basename(path)}")


def run(eng, *args, **kw):
    return eng.ok("run", "--rm", "--network", "none", *args, **kw)


def refused(eng, *args):
    done = eng.cli("run", "--rm", "--network", "none", *args)
    assert done.returncode == 125 or done.returncode in (126, 127), done
    return done.stderr


def volumes(eng, **filters):
    text = urllib.parse.quote(json.dumps(filters))
    status, doc = eng.json("GET", f"{API}/volumes?filters={text}")
    return {v["Name"] for v in doc["Volumes"]} if status == 200 else (status, doc["message"])


def make(eng, **spec):
    return eng.json("POST", f"{API}/volumes/create", spec)


def create(eng, name, host=None, **config):
    config = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": NONE | (host or {})} | config
    return eng.json("POST", f"{API}/containers/create?name={name}", config)


def mounts(eng, name):
    return {m["Destination"]: m for m in eng.inspect(name)["Mounts"]}


def events_of(eng, since):
    out = eng.ok("events", "--since", str(since), "--until", str(int(time.time()) + 1), "--format", "{{json .}}")
    return [json.loads(line) for line in out.splitlines()]


@contextlib.contextmanager
def image(eng, name, files, **config):
    """An image on busybox's layer with these entries: (name, content or None for a directory, changes of the header)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content, changes in files:
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.mtime = tarfile.REGTYPE, 0o644, 1_000_000_000
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            for key, value in changes.items():
                setattr(entry, key, value)
            entry.size = len(content or b"") if entry.type == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(content or b""))
    base = mkimage.busybox_layer(mkimage.find_busybox())
    archive = eng.workdir / f"{name}.tar"
    archive.write_bytes(mkimage.docker_archive(f"{name}:latest", [base, data.getvalue()]))
    eng.ok("load", "-i", str(archive))
    archive.unlink()
    try:
        yield name
    finally:
        eng.remove_all()
        eng.ok("rmi", name)


def test_create_inspect_remove(eng):
    status, doc = make(eng, Name="one", Labels={"a": "1"}, DriverOpts={})
    assert status == 201
    assert doc | {"CreatedAt": 0, "Mountpoint": 0} == {
        "CreatedAt": 0, "Driver": "local", "Labels": {"a": "1"}, "Mountpoint": 0, "Name": "one", "Options": {},
        "Scope": "local"}
    assert doc["Mountpoint"].endswith("/volumes/one/_data")
    assert make(eng, Name="one", Labels={"b": "2"}) == (201, doc), "the one that is there"
    assert eng.json("GET", f"{API}/volumes/one") == (200, doc)
    assert eng.json("DELETE", f"{API}/volumes/one")[0] == 204
    assert eng.json("DELETE", f"{API}/volumes/one") == (404, {"message": "get one: no such volume"})
    assert eng.json("DELETE", f"{API}/volumes/one?force=1")[0] == 204
    status, doc = eng.json("POST", f"{API}/volumes/create")
    assert status == 201 and len(doc["Name"]) == 64 and doc["Options"] is None
    assert doc["Labels"] == {"com.docker.volume.anonymous": ""}


@pytest.mark.parametrize("spec, status, message", [
    ({"Name": "x"}, 400, "create x: volume name is too short, names should be at least two alphanumeric characters"),
    ({"Name": "a/b"}, 400, "create a/b: \"a/b\" includes invalid characters for a local volume name, only "
     "\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"),
    ({"Name": "no", "Driver": "nope"}, 404,
     "create no: error looking up volume plugin nope: plugin \"nope\" not found"),
    ({"Name": "no", "DriverOpts": {"foo": "1"}}, 400, "create no: invalid option: \"foo\""),
    ({"Name": "no", "DriverOpts": {"type": "tmpfs"}}, 400, "create no: missing required option: \"device\""),
    ({"Name": "no", "DriverOpts": {"size": "1g"}}, 400, "create no: quota size requested but no quota support"),
    ({"Name": 7}, 400, "invalid JSON: json: cannot unmarshal number into Go struct field CreateOptions.Name of type string"),
])
def test_wrong_volumes(eng, spec, status, message):
    assert make(eng, **spec) == (status, {"message": message})
    assert volumes(eng) == set()


def test_a_name_too_long_leaves_nothing(eng):
    status, doc = make(eng, Name="n" * 300)
    assert status == 500 and doc["message"].endswith(": file name too long")
    assert volumes(eng) == set()


def test_filters(eng):
    make(eng, Name="one", Labels={"a": "1"})
    make(eng, Name="two")
    create(eng, "user", {"Binds": ["two:/x"]})
    assert volumes(eng, name=["o"]) == {"one", "two"}
    assert volumes(eng, name=["^one$"]) == {"one"}
    assert volumes(eng, label=["a=1"]) == {"one"} and volumes(eng, label=["a=2"]) == set()
    assert volumes(eng, driver=["local"]) == {"one", "two"} and volumes(eng, driver=["x"]) == set()
    assert volumes(eng, dangling=["true"]) == {"one"} and volumes(eng, dangling=["0"]) == {"two"}
    assert volumes(eng, dangling=["zz"]) == (400, "invalid filter 'dangling=[zz]'")
    assert volumes(eng, foo=["a"]) == (400, "invalid filter 'foo'")
    for value, found in [("two", "user"), ("/x", "user"), ("one", "")]:
        assert eng.ok("ps", "-a", "--filter", f"volume={value}", "--format", "{{.Names}}") == found


def test_prune(eng):
    make(eng, Name="named", Labels={"keep": ""})
    make(eng, Name="used")
    anonymous = make(eng)[1]["Name"]
    create(eng, "user", {"Binds": ["used:/x"]})
    prune = lambda **f: eng.json("POST", f"{API}/volumes/prune?filters={urllib.parse.quote(json.dumps(f))}")
    assert prune(all=["x"]) == (
        400, {"message": "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax"})
    assert prune(until=["1h"])[0] == 400
    status, doc = prune()
    assert (status, doc["VolumesDeleted"]) == (200, [anonymous])
    assert prune(**{"all": ["1"], "label!": ["keep"]})[1]["VolumesDeleted"] == []
    assert prune(all=["true"])[1]["VolumesDeleted"] == ["named"]
    assert volumes(eng) == {"used"}


def test_a_volume_in_use_stays(eng):
    eng.ok("create", "--name", "user", "-v", "data:/d", "busybox")
    cid = eng.inspect("user")["Id"]
    for force in ("", "?force=1"):
        assert eng.json("DELETE", f"{API}/volumes/data{force}") == (
            409, {"message": f"remove data: volume is in use - [{cid}]"})
    eng.ok("rm", "-v", "user")
    assert volumes(eng) == {"data"}, "rm -v leaves named volumes"
    eng.ok("volume", "rm", "data")


def test_data_outlives_containers(eng):
    run(eng, "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f")
    assert run(eng, "-v", "data:/other:ro", "busybox", "cat", "/other/f") == "kept"
    assert "Read-only file system" in eng.cli("run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/g").stderr
    assert run(eng, "--mount", "type=volume,src=data,dst=/d,volume-subpath=f", "busybox", "cat", "/d") == "kept"


def test_anonymous_volumes_go_with_rm_v_and_auto_remove(eng):
    run(eng, "-v", "/a", "--mount", "type=volume,dst=/b", "busybox", "touch", "/a/x", "/b/x")
    wait_for(lambda: volumes(eng) == set(), "--rm removes anonymous volumes")
    eng.ok("run", "--name", "box", "--network", "none", "-v", "/a", "-v", "named:/n", "busybox", "true")
    point = mounts(eng, "box")["/a"]
    assert len(point["Name"]) == 64 and point["Source"].endswith(f"/volumes/{point['Name']}/_data")
    assert point["Driver"] == "local" and point["RW"] and (point["Mode"], point["Propagation"]) == ("", "")
    eng.ok("rm", "box")
    assert volumes(eng) == {"named", point["Name"]}, "rm alone leaves them"
    eng.ok("create", "--name", "box", "-v", "/a", "busybox")
    eng.ok("create", "--name", "other", "--volumes-from", "box", "busybox")
    eng.ok("rm", "-v", "box")
    assert len(volumes(eng)) == 3, "another container has it"
    eng.ok("rm", "-v", "other")
    assert volumes(eng) == {"named", point["Name"]}


def test_volumes_from(eng, host_dir):
    eng.ok("create", "--name", "src", "-v", "/a", "-v", f"{host_dir}:/b:ro", "-v", "named:/n", "busybox")
    eng.ok("create", "--name", "rw", "--volumes-from", "src", "-v", f"{host_dir}:/n", "busybox")
    eng.ok("create", "--name", "ro", "--volumes-from", f"{eng.inspect('src')['Id'][:12]}:ro,z", "busybox")
    src, rw, ro = (mounts(eng, name) for name in ("src", "rw", "ro"))
    assert rw["/a"]["Name"] == ro["/a"]["Name"] == src["/a"]["Name"]
    assert {k: m["RW"] for k, m in rw.items()} == {"/a": True, "/b": False, "/n": True}
    assert rw["/n"]["Type"] == "bind", "an own mount covers"
    assert not any(m["RW"] for m in ro.values()) and {m["Mode"] for m in ro.values()} == {""}
    run(eng, "--volumes-from", "src", "busybox", "touch", "/a/f", "/n/f")
    assert run(eng, "--volumes-from", "src", "busybox", "ls", "/a", "/n").split() == ["/a:", "f", "/n:", "f"]
    for spec, message in [("nope", "No such container: nope"), ("src:zz", "invalid mode: zz"),
                          ("", "volumes-from specification cannot be an empty string"),
                          ("src:nocopy", "invalid mode: nocopy")]:
        assert create(eng, "bad", {"VolumesFrom": [spec]}) == (400, {"message": message})


@pytest.mark.parametrize("bind, status, message", [
    ("", 500, "invalid volume specification: ''"),
    ("/tmp:/x:zz", 500, "invalid mode: zz"),
    ("/tmp:/", 500, "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": "
     "invalid specification: destination can't be '/'"),
    ("/tmp:x", 500, "invalid volume specification: '/tmp:x': invalid mount config for type \"bind\": "
     "invalid mount path: 'x' mount path must be absolute"),
    ("x:/x", 400, "create x: volume name is too short, names should be at least two alphanumeric characters"),
])
def test_wrong_binds_leave_nothing(eng, bind, status, message):
    assert create(eng, "bad", {"Binds": ["fresh:/f", bind]}) == (status, {"message": message})
    assert eng.ok("ps", "-aq") == ""
    if not eng.external:
        assert volumes(eng) == set()


@pytest.mark.parametrize("mount, status, message", [
    ({}, 400, "invalid mount config for type \"\": field Target must not be empty"),
    ({"Type": "foo", "Target": "/x"}, 400, "invalid mount config for type \"foo\": mount type unknown"),
    ({"Type": "bind", "Target": "/x"}, 400, "invalid mount config for type \"bind\": field Source must not be empty"),
    ({"Type": "bind", "Source": "/no/such", "Target": "/x"}, 400,
     "invalid mount config for type \"bind\": bind source path does not exist: /no/such"),
    ({"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}}, 400,
     "VolumeOptions must not be specified on mount type \"bind\""),
    ({"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "zz"}}, 400,
     "invalid mount config for type \"bind\": invalid propagation mode: zz"),
    ({"Type": "volume", "Source": "vol", "Target": "/x", "VolumeOptions": {"Subpath": "../x"}}, 400,
     "invalid mount config for type \"volume\": subpath must be a relative path within the volume"),
    ({"Type": "tmpfs", "Source": "a", "Target": "/x"}, 400,
     "invalid mount config for type \"tmpfs\": field Source must not be specified"),
    ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["uid", "1"]]}}, 400,
     "invalid mount config for type \"tmpfs\": invalid option: uid"),
])
def test_wrong_mounts(eng, mount, status, message):
    assert create(eng, "bad", {"Mounts": [mount]}) == (status, {"message": message})


def test_one_place_twice(eng):
    for host in ({"Binds": ["/tmp:/x", "/etc:/x/"]}, {"Binds": ["/tmp:/x"], "Tmpfs": {"/x": ""}},
                 {"Binds": ["/tmp:/x"], "Mounts": [{"Type": "tmpfs", "Target": "/x"}]}):
        assert create(eng, "bad", host) == (400, {"message": "Duplicate mount point: /x"})
    assert create(eng, "good", {"Binds": ["/tmp:/x"]}, Volumes={"/x": {}, "/y": {}})[0] == 201
    assert {k: m["Type"] for k, m in mounts(eng, "good").items()} == {"/x": "bind", "/y": "volume"}
    eng.ok("rm", "-v", "good")


def test_inspect_echoes_what_was_asked_for(eng):
    wanted = [{"Type": "bind", "Source": "/tmp", "Target": "/b", "ReadOnly": True,
               "BindOptions": {"Propagation": "private", "NonRecursive": True}},
              {"Type": "volume", "Source": "vol", "Target": "/v", "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}}},
              {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]
    assert create(eng, "box", {"Mounts": wanted, "Binds": ["/var/../tmp/.:/a/../c:ro"]})[0] == 201
    box = eng.inspect("box")
    assert box["HostConfig"]["Mounts"] == wanted and box["HostConfig"]["Binds"] == ["/var/../tmp/.:/a/../c:ro"]
    source = eng.json("GET", f"{API}/volumes/vol")[1]
    assert source["Labels"] == {"a": "b"}
    assert mounts(eng, "box") == {
        "/b": {"Type": "bind", "Source": "/tmp", "Destination": "/b", "Mode": "", "RW": False, "Propagation": "private"},
        "/c": {"Type": "bind", "Source": "/tmp", "Destination": "/c", "Mode": "ro", "RW": False, "Propagation": "rprivate"},
        "/v": {"Type": "volume", "Name": "vol", "Source": source["Mountpoint"], "Destination": "/v", "Driver": "local",
               "Mode": "z", "RW": True, "Propagation": ""},
        "/t": {"Type": "tmpfs", "Source": "", "Destination": "/t", "Mode": "", "RW": True, "Propagation": ""}}
    row = eng.json("GET", f"{API}/containers/json?all=1")[1][0]
    assert {m["Destination"] for m in row["Mounts"]} == {"/b", "/c", "/v", "/t"}


def test_binds(eng, host_dir):
    run(eng, "-v", f"{host_dir}/deep:/x", "busybox", "sh", "-c", "mkdir -p /x/sub && echo 1 > /x/sub/f && ln -s sub /x/link")
    assert run(eng, "-v", f"{host_dir}:/x:ro", "busybox", "cat", "/x/deep/sub/f") == "1"
    assert run(eng, "-v", f"{host_dir}/deep/link:/x", "busybox", "ls", "/x") == "f", "a link on the host is followed"
    assert run(eng, "-v", f"{host_dir}/deep/sub/f:/etc/new/file", "busybox", "cat", "/etc/new/file") == "1"
    assert run(eng, "-v", f"{host_dir}/deep:/x", "-v", f"{host_dir}/deep/sub:/x/sub/inner", "busybox", "ls",
               "/x/sub/inner").split() == ["f", "inner"]
    assert "Read-only" in eng.cli("run", "--rm", "-v", f"{host_dir}:/x:ro", "busybox", "touch", "/x/f").stderr
    created = run(eng, "--mount", f"type=bind,src={host_dir},dst=/x,bind-propagation=private", "busybox", "ls", "/x")
    assert created == "deep"


def test_a_mount_over_the_files_of_every_container(eng, host_dir):
    run(eng, "-v", f"{host_dir}:/x", "busybox", "sh", "-c", "echo mine > /x/hosts")
    assert run(eng, "-v", f"{host_dir}/hosts:/etc/hosts", "busybox", "cat", "/etc/hosts") == "mine"
    assert run(eng, "-v", f"{host_dir}:/dev/shm", "busybox", "cat", "/dev/shm/hosts") == "mine"


def test_the_devices_of_the_host(eng):
    assert run(eng, "-t", "-v", "/dev:/dev", "busybox", "tty").strip() == "/dev/pts/0"
    assert run(eng, "-v", "/tmp:/dev/shm", "busybox", "grep", "-c", " /dev/shm ", "/proc/mounts") == "1"


def test_readonly_covers_what_is_mounted_below(eng):
    script = "touch /host/dev/shm/gty && echo written; true"
    inner = run(eng, "-v", "/:/host:ro", "busybox", "sh", "-c", script)
    assert inner == ""
    only_top = ["--mount", "type=bind,src=/dev,dst=/host/dev,readonly,bind-recursive=writable"]
    assert run(eng, *only_top, "busybox", "sh", "-c", script + "; rm -f /host/dev/shm/gty") == "written"


def test_directories_and_files_do_not_mix(eng, host_dir):
    run(eng, "-v", f"{host_dir}:/x", "busybox", "touch", "/x/f")
    for source, target in [(host_dir, "/etc/passwd"), (f"{host_dir}/f", "/etc"), ("/etc/passwd/g", "/x")]:
        text = refused(eng, "-v", f"{source}:{target}", "busybox", "true")
        assert "Are you trying to mount a directory onto a file (or vice-versa)?" in text
    assert eng.ok("ps", "-aq") == ""


def test_a_link_in_the_image_cannot_lead_a_mount_out(eng, host_dir):
    with image(eng, "links", [("out", b"", {"type": tarfile.SYMTYPE, "linkname": f"/../..{host_dir}"}),
                              ("loop", b"", {"type": tarfile.SYMTYPE, "linkname": "loop"})]) as name:
        assert run(eng, "-v", "data:/out/x", name, "sh", "-c", f"touch {host_dir}/x/f && ls /out/x") == "f"
        if not eng.external:
            assert not os.path.exists(host_dir)
        refused(eng, "-v", "data:/loop/x", name, "true")


def test_proc_is_not_mounted_over(eng):
    for target in ("/proc", "/proc/x"):
        refused(eng, "-v", f"/tmp:{target}", "busybox", "true")


def test_mounts_are_private_unless_asked_otherwise(eng, host_dir):
    shown = run(eng, "-v", f"{host_dir}:/x", "busybox", "sh", "-c", "grep ' /x ' /proc/self/mountinfo")
    assert "shared:" not in shown and "master:" not in shown
    # What contains the engine's own directory does not hold mounts that the host gives up.
    create(eng, "box", {"Binds": ["/:/host"]})
    assert mounts(eng, "box")["/host"]["Propagation"] == "rslave"
    run(eng, "-v", "/:/host", "busybox", "true")


def test_image_content_goes_into_new_volumes_only(eng):
    files = [("data", None, {"uid": 12, "gid": 34, "mode": 0o1750}), ("data/f", b"content", {"uid": 5, "mode": 0o4711}),
             ("data/hard", b"", {"type": tarfile.LNKTYPE, "linkname": "data/f"}),
             ("data/soft", b"", {"type": tarfile.SYMTYPE, "linkname": "/nowhere"}),
             ("data/sub", None, {"mode": 0o500}), ("data/sub/g", b"deep", {})]
    look = "cd /data && stat -c '%n %u:%g %a %h' . f soft sub sub/g && stat -c %Y f soft sub/g && readlink soft && cat hard sub/g"
    with image(eng, "filled", files) as name:
        plain = run(eng, name, "sh", "-c", look)
        for args in (["-v", "vol:/data"], ["-v", "/data"], ["--mount", "type=volume,src=third,dst=/data"]):
            assert run(eng, *args, name, "sh", "-c", look) == plain
        run(eng, "-v", "vol:/data", name, "rm", "-f", "/data/f")
        assert "f" not in run(eng, "-v", "vol:/data", name, "ls", "/data").split(), "once only"
        assert run(eng, "-v", "empty:/data:nocopy", name, "ls", "/data") == ""
        assert run(eng, "-v", "empty:/data", name, "ls", "/data").split() == ["f", "hard", "soft", "sub"]
        done = create(eng, "bad", Image=name, Volumes={"/data/f": {}})
        assert done[0] == 500 and done[1]["message"].startswith("cannot mount volume over existing file, file exists ")
        assert eng.ok("ps", "-aq") == "" and volumes(eng) == {"vol", "third", "empty"}


def test_declared_volumes_of_an_image(eng):
    archive = eng.workdir / "declared-rootfs.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("keep")
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    eng.ok("import", "-c", "VOLUME /keep /own", "-c", "CMD true", str(archive), "declared")
    archive.unlink()
    try:
        eng.ok("create", "--name", "box", "-v", "named:/own", "declared")
        found = mounts(eng, "box")
        assert found["/own"]["Name"] == "named" and len(found["/keep"]["Name"]) == 64
        assert eng.inspect("box")["Config"]["Volumes"] == {"/keep": {}, "/own": {}}
        eng.ok("rm", "-v", "box")
        assert volumes(eng) == {"named"}
    finally:
        eng.remove_all()
        eng.ok("rmi", "declared")


def test_tmpfs(eng):
    options = run(eng, "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700", "busybox", "grep", " /t ", "/proc/mounts")
    assert {"rw", "nosuid", "nodev", "noexec", "size=1024k", "mode=700"} <= set(options.split()[3].split(","))
    assert "ro" in run(eng, "--mount", "type=tmpfs,dst=/t,readonly", "busybox", "grep", " /t ", "/proc/mounts").split()[3]


def test_volumes_with_options(eng, host_dir):
    eng.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "mem")
    eng.ok("run", "-d", "--name", "holder", "--network", "none", "-v", "mem:/m", "busybox", "sleep", "600")
    assert "size=1024k" in run(eng, "-v", "mem:/m", "busybox", "sh", "-c", "touch /m/f; grep ' /m ' /proc/mounts")
    assert run(eng, "-v", "mem:/m", "busybox", "ls", "/m") == "f", "one file system for all of them"
    eng.ok("rm", "-f", "holder")
    wait_for(lambda: run(eng, "-v", "mem:/m", "busybox", "ls", "/m") == "", "memory goes with its last container")
    run(eng, "-v", f"{host_dir}:/x", "busybox", "touch", "/x/f")
    eng.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={host_dir}", "there")
    assert run(eng, "-v", "there:/x", "busybox", "ls", "/x") == "f"
    eng.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such", "gone")
    assert "error while mounting volume" in refused(eng, "-v", "gone:/x", "busybox", "true")
    eng.ok("volume", "rm", "mem", "there", "gone")
    if not eng.external:
        assert str(eng.data_root / "volumes") not in open("/proc/self/mountinfo").read()


def test_events(eng):
    since = int(time.time())
    run(eng, "-v", "data:/d:ro", "-v", "/a", "busybox", "true")
    wait_for(lambda: volumes(eng) == {"data"}, "the anonymous volume goes")
    eng.ok("volume", "rm", "data")
    seen = [e for e in events_of(eng, since) if e["Type"] in ("volume", "container") and e["Action"] != "attach"][-12:]
    actions = [f"{e['Type']} {e['Action']}" for e in seen]
    assert actions == [
        "volume create", "volume create", "container create", "volume mount", "volume mount", "container start",
        "volume unmount", "volume unmount", "container die", "volume destroy", "container destroy", "volume destroy"]
    mount = next(e for e in seen if e["Action"] == "mount" and e["Actor"]["ID"] == "data")
    box = next(e for e in seen if e["Type"] == "container")["Actor"]["ID"]
    assert mount["Actor"]["Attributes"] == {
        "container": box, "destination": "/d", "driver": "local", "propagation": "", "read/write": "false"}


def test_usage(eng):
    run(eng, "-v", "data:/d", "busybox", "dd", "if=/dev/zero", "of=/d/f", "bs=1k", "count=64")
    eng.ok("create", "--name", "user", "-v", "data:/d", "busybox")
    (row,) = eng.json("GET", f"{API}/system/df?type=volume")[1]["Volumes"]
    assert row["Name"] == "data" and row["UsageData"] == {"RefCount": 1, "Size": 65536}


@pytest.mark.gantry
def test_a_killed_daemon_leaves_whole_volumes(private_daemon):
    eng = private_daemon
    eng.ok("volume", "create", "--label", "a=1", "kept")
    eng.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "mem")
    eng.ok("run", "-d", "--name", "runs", "--network", "none", "-v", "kept:/k", "-v", "/anon", "-v", "mem:/m", "busybox",
           "sh", "-c", "echo 1 > /m/f; sleep 600")
    before = mounts(eng, "runs")
    wait_for(lambda: run(eng, "-v", "mem:/m", "busybox", "ls", "/m") == "f", "it is written")
    eng.kill9()
    # What a kill in the middle of a creation leaves.
    top = eng.data_root / "volumes"
    (top / "half/_data").mkdir(parents=True)
    (top / "new/_data/content").mkdir(parents=True)
    (top / "new/.new").touch()
    (top / "kept/.copy-0123/x").mkdir(parents=True)
    shutil.rmtree(top / "kept/_data")
    eng.start()
    assert mounts(eng, "runs") == before
    assert volumes(eng) == {"kept", "mem", before["/anon"]["Name"]}
    assert not (top / "half").exists() and not (top / "new").exists() and os.listdir(top / "kept") == ["_data"]
    assert eng.json("GET", f"{API}/volumes/kept")[1]["Labels"] == {"a": "1"}
    assert run(eng, "-v", "mem:/m", "busybox", "ls", "/m") == "f", "a second container sees the same file system"
    assert eng.json("DELETE", f"{API}/volumes/kept")[0] == 409
    eng.ok("rm", "-fv", "runs")
    wait_for(lambda: str(top) not in open("/proc/self/mountinfo").read(), "nothing is mounted for nobody")
    assert volumes(eng) == {"kept", "mem"}
    eng.ok("volume", "rm", "kept", "mem")
    assert os.listdir(top) == []


@pytest.mark.gantry
def test_creations_at_once_make_one_volume(eng):
    procs = [eng.popen("create", "-v", "shared:/s", "-v", "/own", "busybox", stdout=-3, stderr=-3) for _ in range(8)]
    assert [p.wait(60) for p in procs] == [0] * 8
    assert len(volumes(eng)) == 9
    ids = eng.ok("ps", "-aq", "--no-trunc").split()
    assert len(ids) == 8
    eng.ok("rm", "-v", *ids)
    assert volumes(eng) == {"shared"}
