"""Devices by CDI specifications: what is asked for is there inside, what is not described is refused as by dockerd."""
import json
import pathlib
import tempfile

import pytest

import leaks
from engine import Daemon

pytestmark = pytest.mark.gantry

SPEC = {
    "cdiVersion": "0.7.0", "kind": "vendor.com/class",
    "containerEdits": {
        "env": ["COMMON=1"],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/common", "options": ["ro", "nosuid", "bind"]}],
    },
    "devices": [
        {"name": "null", "containerEdits": {"env": ["NULL=yes"], "deviceNodes": [
            {"path": "/dev/cdi-null", "hostPath": "/dev/null", "permissions": "rw", "fileMode": 0o600,
             "uid": 1000, "gid": 33}]}},
        {"name": "zero", "containerEdits": {"env": ["COMMON=2"], "deviceNodes": [
            {"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5}]}},
        {"name": "loop", "containerEdits": {"deviceNodes": [{"path": "/dev/loop0", "permissions": "r"}]}},
        {"name": "trees", "containerEdits": {"additionalGids": [55], "mounts": [
            {"hostPath": "/etc", "containerPath": "/cdi/etc", "options": ["ro", "rbind"]},
            {"hostPath": "tmpfs", "containerPath": "/cdi/tmp", "type": "tmpfs", "options": ["size=1m", "nodev"]}]}},
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/no-such-device"}]}},
        {"name": "file", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}},
    ],
}
YAML = """---
cdiVersion: 0.5.0
kind: vendor.com/yaml
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/y0
      hostPath: /dev/null
      fileMode: 0640
    env: [ "A=b c", 'D=it''s' ]
  name: "0"
"""


@pytest.fixture(scope="module")
def cdi(workdir, image_tar):
    root = pathlib.Path(tempfile.mkdtemp(prefix="cdi-", dir=workdir))
    dirs = [root / "low", root / "high"]
    for path in dirs:
        path.mkdir()
    (dirs[0] / "vendor.json").write_text(json.dumps(SPEC))
    (dirs[0] / "vendor.yaml").write_text(YAML)
    eng = Daemon(root / "d", [f"--cdi-spec-dir={path}" for path in dirs])
    eng.spec_dirs = dirs
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    yield eng
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


def inside(eng, script, *devices, options=()):
    args = [arg for device in devices for arg in ("--device", device)]
    return eng.ok("run", "--rm", "--network", "none", *args, *options, "busybox", "sh", "-c", script)


def test_info(cdi, engine):
    assert cdi.json("GET", "/info")[1]["CDISpecDirs"] == [str(path) for path in cdi.spec_dirs]
    assert engine.json("GET", "/info")[1]["CDISpecDirs"] == ["/etc/cdi", "/var/run/cdi"]


def test_nodes_and_variables(cdi):
    out = inside(cdi, "ls -ln /dev/cdi-null /dev/zero2; echo x > /dev/cdi-null && head -c 3 /dev/zero2 | od -An -tx1;"
                 " echo $NULL $COMMON $MINE", "vendor.com/class=null", "vendor.com/class=zero",
                 options=("-e", "COMMON=mine", "-e", "MINE=1"))
    null, zero, read, variables = out.splitlines()
    assert null.split()[:6] == ["crw-------", "1", "1000", "33", "1,", "3"]
    assert zero.split()[:6] == ["crw-rw-rw-", "1", "0", "0", "1,", "5"]
    assert read.split() == ["00", "00", "00"]
    assert variables == "yes 2 1", "the specification's value counts, the device's more than the common one"


def test_access_is_limited(cdi):
    """Neither in the default list of devices nor writable."""
    if not pathlib.Path("/dev/loop0").exists():
        pytest.skip("this machine has no loop device")
    out = inside(cdi, "ls /dev/loop0; (head -c 1 /dev/loop0 >/dev/null) 2>&1; (: >> /dev/loop0) 2>&1; true",
                 "vendor.com/class=loop")
    assert "can't create /dev/loop0: Operation not permitted" in out
    assert "can't open" not in out and "head:" not in out.replace("head: /dev/loop0: Input/output error", "")


def test_mounts_and_groups(cdi):
    out = inside(cdi, "grep -E ' /(common|cdi)' /proc/self/mountinfo; id -G; touch /cdi/etc/x 2>&1; ls /cdi/etc/passwd",
                 "vendor.com/class=trees")
    mounts = {line.split()[4]: line.split()[5] for line in out.splitlines() if " - " in line}
    assert mounts == {"/common": "ro,nosuid,relatime", "/cdi/etc": "ro,relatime", "/cdi/tmp": "rw,nodev,relatime"}
    assert "size=1024k" in out and "Read-only file system" in out and "/cdi/etc/passwd" in out
    assert "0 55" in out.splitlines()


def test_clients_mounts_are_on_top(cdi, workdir):
    (workdir / "mine").mkdir(exist_ok=True)
    out = inside(cdi, "grep -c ' /cdi' /proc/self/mountinfo; ls -A /cdi", "vendor.com/class=trees",
                 options=("-v", f"{workdir}/mine:/cdi"))
    assert out == "1"
    assert not any((workdir / "mine").iterdir()), "nothing was made in the client's directory"


def test_yaml(cdi):
    out = inside(cdi, "ls -l /dev/y0; echo \"$A,$D\"", "vendor.com/yaml=0")
    assert out.startswith("crw-r-----") and out.endswith("b c,it's")


def test_files_are_read_at_every_start(cdi):
    spec = {"cdiVersion": "0.5.0", "kind": "vendor.com/class",
            "devices": [{"name": "null", "containerEdits": {"env": ["NULL=high"]}}]}
    high = cdi.spec_dirs[1]
    try:
        (high / "a.json").write_text(json.dumps(spec))
        assert inside(cdi, "echo $NULL; ls /dev", "vendor.com/class=null").splitlines()[0] == "high"
        (high / "b.json").write_text(json.dumps(spec))
        refused(cdi, {"DeviceIDs": ["vendor.com/class=null"]},
                "CDI device injection failed: unresolvable CDI devices vendor.com/class=null")
    finally:
        for path in high.iterdir():
            path.unlink()


def refused(eng, request, text, status=500):
    body = {"Image": "busybox", "Cmd": ["true"],
            "HostConfig": {"NetworkMode": "none", "DeviceRequests": [{"Driver": "cdi"} | request]}}
    code, doc = eng.json("POST", "/containers/create", body)
    assert code == 201, doc
    try:
        assert eng.json("POST", f"/containers/{doc['Id']}/start") == (status, {"message": text})
        shown = eng.inspect(doc["Id"])
        assert shown["State"]["Status"] == "created" and shown["HostConfig"]["DeviceRequests"][0]["Driver"] == "cdi"
    finally:
        eng.ok("rm", doc["Id"])


@pytest.mark.parametrize("request_, text, status", [
    ({"DeviceIDs": ["vendor.com/class=null", "vendor.com/class=none", "bad"]},
     "CDI device injection failed: unresolvable CDI devices vendor.com/class=none, bad", 500),
    ({"DeviceIDs": ["vendor.com/class=gone"]}, "CDI device injection failed: failed to inject devices: failed to stat "
     "CDI host device \"/dev/no-such-device\": no such file or directory", 500),
    ({"DeviceIDs": ["vendor.com/class=file"]}, "CDI device injection failed: failed to inject devices: failed to stat "
     "CDI host device \"/etc/passwd\": not a device node", 500),
    ({"DeviceIDs": ["vendor.com/class=null"], "Count": 1}, "unexpected count in CDI device request", 400),
    ({"DeviceIDs": ["vendor.com/class=null"], "Options": {"a": "b"}}, "unexpected options in CDI device request", 400),
    ({"Driver": "", "Count": -1, "Capabilities": [["gpu"]]},
     "could not select device driver \"\" with capabilities: [[gpu]]", 500),
])
def test_refused(cdi, request_, text, status):
    if request_.get("Driver") == "":
        done = cdi.cli("run", "--rm", "--network", "none", "--gpus", "all", "busybox", "true")
        assert done.returncode == 125 and text in done.stderr
        return
    refused(cdi, request_, text, status)


def test_switched_off(workdir, image_tar):
    root = pathlib.Path(tempfile.mkdtemp(prefix="nocdi-", dir=workdir))
    eng = Daemon(root, ["--feature", "cdi=false"])
    eng.start()
    try:
        assert eng.json("GET", "/info")[1]["CDISpecDirs"] == []
        eng.ok("load", "-i", str(image_tar))
        refused(eng, {"DeviceIDs": ["a.b/cc=d"]}, "could not select device driver \"cdi\" with capabilities: []")
    finally:
        eng.remove_all()
        eng.stop()
    leaks.assert_nothing_left(eng)
