"""`docker diff`, `export` and `commit`. Expectations are dockerd 28's (GANTRY_TEST_HOST)."""
import io
import json
import subprocess
import tarfile
import time
import urllib.parse

import pytest
from engine import wait_for
from test_copy import DIR, HARD, archive, members, tar

CHANGE = ("mkdir -p /d/e; echo hi >/d/f; chmod 600 /etc/passwd; rm /etc/group; rm -r /tmp; mkdir /tmp; touch /tmp/new; touch /etc;"
          "ln -s x /lnk; rm -r /root; chown 5 /home; mkfifo /ff; mv /bin/ar /bin/ar2; ln /bin/awk /awk; rmdir /sys/x 2>/dev/null;"
          "rm -r /usr; echo file >/usr; touch /ready; exec sleep 10000")
CHANGES = {"/d": 1, "/d/e": 1, "/d/f": 1, "/etc": 0, "/etc/passwd": 0, "/etc/group": 2, "/tmp": 0, "/tmp/new": 1, "/lnk": 1,
           "/root": 2, "/home": 0, "/ff": 1, "/bin": 0, "/bin/ar": 2, "/bin/ar2": 1, "/awk": 1, "/usr": 0, "/ready": 1,
           "/vol": 1}


@pytest.fixture
def box(engine):
    engine.ok("run", "-d", "--name", "box", "-v", "/vol", "--label", "cl=1", "-e", "X=y", "-w", "/d", "--expose", "80",
              "busybox", "sh", "-c", CHANGE)
    wait_for(lambda: archive(engine, "HEAD", "box", "/ready")[0] == 200, "the changes are there")
    yield "box"
    engine.ok("rm", "-fv", "box")


@pytest.fixture(autouse=True)
def no_images_left(engine):
    before = set(engine.ok("images", "-aq", "--no-trunc").split())
    yield
    engine.remove_all()

    def gone():
        made = set(engine.ok("images", "-aq", "--no-trunc").split()) - before
        # dockerd keeps parents as long as they have children.
        return not made or engine.cli("rmi", "-f", *made) is None
    wait_for(gone, "no image is left")


def commit(eng, box, body=None, **query):
    status, doc = eng.json("POST", f"/v1.48/commit?{urllib.parse.urlencode({'container': box} | query)}", body)
    return status, doc


def test_what_a_container_has_changed(engine, box):
    for stopped in (False, True):
        if stopped:
            engine.ok("kill", box)
            engine.ok("wait", box)
        status, found = engine.json("GET", f"/v1.48/containers/{box}/changes")
        assert status == 200
        assert {c["Path"]: c["Kind"] for c in found} == CHANGES and len(found) == len(CHANGES)
    assert "D /etc/group" in engine.ok("diff", box).splitlines()
    engine.ok("run", "--name", "same", "busybox", "chmod", "644", "/etc/passwd")
    assert engine.json("GET", "/v1.48/containers/same/changes") == (200, None)
    assert engine.http("GET", "/v1.48/containers/nobody/changes")[0] == 404


def test_export_has_the_root_without_mounts(engine, box):
    for stopped in (False, True):
        if stopped:
            engine.ok("kill", box)
            engine.ok("wait", box)
        status, head, data = engine.http("GET", f"/v1.48/containers/{box}/export")
        assert (status, head["content-type"]) == (200, "application/octet-stream")
        got = members(data)
        assert {"d/f", "etc/passwd", "bin/ar2", "vol", "proc", "lnk"} <= set(got)
        assert not {"bin/ar", "root", "etc/group", "usr/bin"} & set(got)
        assert not [n for n in got if n.startswith(("proc/", "sys/", "vol/"))]
        assert got["etc/hosts"].size == 0, "what is mounted is not in it"
        assert (got["home"].uid, got["etc/passwd"].mode) == (5, 0o600)
        assert list(got) == sorted(got, key=lambda n: n.split("/"))
    assert engine.http("GET", "/v1.48/containers/nobody/export")[0] == 404


def test_a_commit_is_what_the_container_was(engine, box):
    status, doc = commit(engine, box, repo="com", tag="t1", comment="hello", author="me",
                         changes=["ENV A=b"][0] + "\nCMD [\"x\"]")
    assert status == 201
    image = engine.inspect("com:t1")
    assert (image["Id"], image["Author"], image["Comment"]) == (doc["Id"], "me", "hello")
    want = {"Cmd": ["x"], "Env": ["X=y", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"],
            "Labels": {"cl": "1"}, "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/d", "Entrypoint": None}
    assert {k: image["Config"][k] for k in want} == want
    first = json.loads(engine.ok("history", "--no-trunc", "--format", "json", "com:t1").splitlines()[0])
    assert first["CreatedBy"].startswith("sh -c mkdir -p /d/e;") and first["Comment"] == "hello"
    saved = members(engine.ok("save", "com:t1", text=False))
    assert "manifest.json" in saved
    with tarfile.open(fileobj=io.BytesIO(engine.ok("save", "com:t1", text=False))) as t:
        layers = json.load(t.extractfile("manifest.json"))[0]["Layers"]
        layer = members(t.extractfile(layers[-1]).read())
    assert {n for n in layer if ".wh." in n} == {".wh.root", "bin/.wh.ar", "etc/.wh.group", "tmp/.wh..wh..opq"}
    assert layer["bin/awk"].type == HARD and layer["bin/awk"].linkname == "awk"
    assert layer["usr"].isfile() and layer["home"].uid == 5
    # Its containers have what that one has.
    engine.ok("create", "--name", "copy", "com:t1", "true")
    ours = members(engine.http("GET", "/v1.48/containers/copy/export")[2])
    theirs = members(engine.http("GET", f"/v1.48/containers/{box}/export")[2])
    # What each start makes anew.
    for made in ("dev", "etc"):
        ours.pop(made), theirs.pop(made)
    facts = lambda of: {n: (m.type, m.mode, m.uid, m.gid, m.size if m.type != HARD else 0, m.mtime, m.linkname)  # noqa: E731
                        for n, m in of.items() if not n.startswith(("dev/", "etc/host", "etc/resolv", "etc/mtab", ".docker"))}
    assert facts(ours) == facts(theirs)


def test_what_a_client_says_of_the_image(engine, box):
    body = {"Cmd": ["over"], "Env": ["E=1"], "Labels": {"l": "2"}, "ExposedPorts": {"81/tcp": {}}, "WorkingDir": "/w",
            "User": "u", "Volumes": {"/x": {}}}
    status, doc = commit(engine, box, body)
    assert status == 201
    config = engine.inspect(doc["Id"])["Config"]
    assert config["Cmd"] == ["over"] and config["Env"][:2] == ["E=1", "X=y"] and config["Labels"] == {"cl": "1", "l": "2"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "81/tcp"} and (config["WorkingDir"], config["User"]) == ("/w", "u")
    assert config["Volumes"] == {"/x": {}, "/vol": {}}
    for query, code, text in [
        ({"repo": "UPPER"}, 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ({"repo": "ok", "tag": "b@d"}, 400, "invalid tag format"),
        ({"changes": "BAD x"}, 400, "BAD is not a valid change command"),
        ({"changes": "RUN x"}, 400, "RUN is not a valid change command"),
    ]:
        status, doc = commit(engine, box, **query)
        assert (status, doc["message"]) == (code, text)
    assert commit(engine, "nobody")[0] == 404
    assert commit(engine, "")[1]["message"] == 'invalid name or ID supplied: ""'


def test_events_and_the_pause(engine, box):
    since = time.time()
    assert commit(engine, box, repo="ev", tag="1", pause="1")[0] == 201
    assert commit(engine, box, pause="0")[0] == 201
    lines = engine.ok("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--format",
                      "{{.Type}} {{.Action}}").splitlines()
    wanted = ["container pause", "image create", "image tag", "container commit", "container unpause",
              "image create", "container commit"]
    assert [line for line in lines if line in wanted] == wanted
    assert engine.inspect(box)["State"]["Status"] == "running"
    engine.ok("pause", box)
    assert commit(engine, box)[0] == 201
    assert engine.inspect(box)["State"]["Paused"], "one that was paused stays so"


def test_a_commit_without_changes_has_no_layer(engine):
    engine.ok("create", "--name", "none", "busybox", "true")
    status, doc = commit(engine, "none", comment="x")
    assert status == 201
    image, base = engine.inspect(doc["Id"]), engine.inspect("busybox")
    assert image["RootFS"]["Layers"] == base["RootFS"]["Layers"] and image["Id"] != base["Id"]


def test_layers_of_layers(engine):
    engine.ok("tag", "busybox", "chain:0")
    for number in range(5):
        engine.ok("run", "--name", "next", f"chain:{number}", "sh", "-c",
                  f"rm -rf /dir; mkdir /dir; echo {number} >/dir/{number}; rm -f /gone{number}; echo >/gone{number + 1}")
        engine.ok("commit", "next", f"chain:{number + 1}")
        engine.ok("rm", "next")
    engine.ok("run", "--name", "last", "chain:5", "true")
    got = members(engine.http("GET", "/v1.48/containers/last/export")[2])
    assert [n for n in got if n.startswith(("dir", "gone"))] == ["dir", "dir/4", "gone5"]
    assert len(engine.inspect("chain:5")["RootFS"]["Layers"]) == 6
    engine.ok("rm", "last")
    engine.ok("rmi", *(f"chain:{number}" for number in reversed(range(6))))


@pytest.mark.gantry
def test_capabilities_and_attributes_are_committed(engine):
    body = tar(("bin/cap", b"x", {"mode": 0o755, "pax_headers": {
        "SCHILY.xattr.user.note": "kept"}}), ("long/" + "n" * 150, b"y"))
    engine.ok("create", "--name", "attr", "busybox", "true")
    assert archive(engine, "PUT", "attr", "/", body)[0] == 200
    assert commit(engine, "attr", repo="attr")[0] == 201
    engine.ok("create", "--name", "attr2", "attr")
    got = members(archive(engine, "GET", "attr2", "/bin/cap")[2])["cap"]
    assert got.pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert "n" * 150 in members(archive(engine, "GET", "attr2", "/long/" + "n" * 150)[2])


@pytest.mark.gantry
def test_an_export_can_be_imported(engine, box):
    data = engine.ok("export", box, text=False)
    done = subprocess.run(["docker", "import", "-", "back:1"], env=engine.env(), input=data, capture_output=True, check=True)
    assert done.stdout.startswith(b"sha256:")
    engine.ok("create", "--name", "back", "back:1", "true")
    ours = members(engine.http("GET", "/v1.48/containers/back/export")[2])
    assert ours["d/f"].size == 3 and ours["d"].type == DIR


def test_the_size_of_changes(engine):
    """A file with two names counts once, a link as long as what it says."""
    engine.ok("run", "--name", "sized", "--network", "none", "busybox", "sh", "-c",
              "mkdir /s; head -c 1000 /dev/zero >/s/a; ln /s/a /s/b; ln -s 12345 /s/l; rm /etc/group")
    rows = engine.json("GET", "/v1.48/containers/json?all=1&size=1")[1]
    assert [row["SizeRw"] for row in rows] == [1005]
    assert engine.json("GET", "/v1.48/containers/sized/json?size=1")[1]["SizeRw"] == 1005
