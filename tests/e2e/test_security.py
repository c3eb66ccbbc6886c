"""Security options, capabilities, users, limits: what is taken, what is refused and how, and what comes of it inside."""
import os

import pytest

HAS_APPARMOR = os.path.exists("/sys/kernel/security/apparmor")


def create(engine, host=None, **config):
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"} | (host or {})} | config
    return engine.json("POST", "/v1.48/containers/create", body)


def start_error(engine, host=None, **config):
    status, doc = create(engine, host, **config)
    assert status == 201, doc
    status, error = engine.json("POST", f"/v1.48/containers/{doc['Id']}/start")
    assert status >= 400, "it starts"
    return error["message"]


def inside(engine, script, *args):
    return engine.ok("run", "--rm", "--network", "none", *args, "busybox", "sh", "-c", script)


# --- SecurityOpt ---------------------------------------------------------------------------------

@pytest.mark.parametrize("option", ["label=disable", "label:disable", "label=type:x_t", "label=level:s0", "label=bogus", "seccomp=",
                                    "seccomp=builtin", "no-new-privileges=false", "writable-cgroups=false"])
def test_options_that_are_taken(engine, option):
    status, doc = create(engine, {"SecurityOpt": [option]})
    assert status == 201, doc
    assert engine.json("POST", f"/v1.48/containers/{doc['Id']}/start")[0] == 204
    seen = engine.inspect(doc["Id"])
    assert seen["HostConfig"]["SecurityOpt"] == [option]
    assert (seen["ProcessLabel"], seen["MountLabel"]) == ("", "")


@pytest.mark.parametrize("option, kind", [
    ("foo=bar", 2), ("foo", 1), ("", 1), ("=", 2), ("apparmor", 1), ("label", 1), ("seccomp", 1), ("no-new-privileges=", 2),
    ("no-new-privileges=maybe", 2), ("no-new-privileges:true:false", 2), ("writable-cgroups=maybe", 2), ("systempaths=unconfined", 2),
])
def test_options_that_are_refused(engine, option, kind):
    status, doc = create(engine, {"SecurityOpt": [option]})
    assert doc == {"message": f'invalid --security-opt {kind}: "{option}"'}
    assert status == (500 if engine.external else 400), "a mistake of the client"


@pytest.mark.skipif(HAS_APPARMOR, reason="there is no profile of that name")
def test_an_apparmor_profile_without_apparmor(engine):
    """It is shown until the container starts, and means nothing."""
    doc = create(engine, {"SecurityOpt": ["apparmor=mine", "apparmor:other"]})[1]
    assert engine.inspect(doc["Id"])["AppArmorProfile"] == "other"
    engine.ok("start", doc["Id"])
    assert engine.inspect(doc["Id"])["AppArmorProfile"] == ""


def test_labels_are_off_where_the_host_is_shared(engine):
    for host, shown in [({"Privileged": True, "SecurityOpt": ["apparmor=unconfined"]}, ["apparmor=unconfined", "label=disable"]),
                        ({"PidMode": "host", "SecurityOpt": ["label=type:x"]}, ["label=type:x"]),
                        ({"IpcMode": "host"}, ["label=disable"])]:
        assert engine.inspect(create(engine, host)[1]["Id"])["HostConfig"]["SecurityOpt"] == shown


def test_system_paths(engine):
    script = "echo x 2>/dev/null > /proc/sys/kernel/domainname && echo writable; wc -c < /proc/timer_list"
    assert inside(engine, script) == "0"
    out = inside(engine, script, "--security-opt", "systempaths=unconfined").split()
    assert out[0] == "writable" and int(out[1]) > 0


def test_writable_cgroups(engine):
    script = "cd /sys/fs/cgroup; [ ! -d pids ] || cd pids; mkdir sub && rmdir sub && echo writable"
    assert inside(engine, script, "--security-opt", "writable-cgroups=true") == "writable"
    for args in ((), ("--security-opt", "writable-cgroups=false")):
        done = engine.cli("run", "--rm", "--network", "none", *args, "busybox", "sh", "-c", script)
        assert "Read-only file system" in done.stderr, done


def test_no_new_privileges(engine):
    flag = "grep NoNewPrivs /proc/self/status | cut -f2"
    for option, on in [("no-new-privileges", "1"), ("no-new-privileges:true", "1"), ("no-new-privileges=0", "0")]:
        assert inside(engine, flag, "--security-opt", option) == on, option


# --- capabilities --------------------------------------------------------------------------------

DEFAULT = 0xa80425fb


@pytest.mark.parametrize("add, drop, mask", [
    ([], ["all"], 0), (["CHOWN"], ["ALL"], 1), (["net_admin"], [], DEFAULT | 1 << 12), (["CAP_NET_ADMIN"], ["NET_ADMIN"], DEFAULT | 1 << 12),
    ([], ["cap_chown"], DEFAULT & ~1), (["CHOWN", "cap_chown"], [], DEFAULT),
])
def test_capabilities(engine, add, drop, mask):
    args = [word for name in add for word in ("--cap-add", name)] + [word for name in drop for word in ("--cap-drop", name)]
    seen = inside(engine, "grep -E 'Cap(Bnd|Eff)' /proc/self/status | cut -f2", *args).split()
    assert [int(x, 16) for x in seen] == [mask, mask]


def test_all_capabilities_are_those_that_the_daemon_has(engine):
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd"))
    bound = "grep CapBnd /proc/self/status | cut -f2"
    assert int(inside(engine, bound, "--cap-add", "ALL"), 16) == own
    assert int(inside(engine, bound, "--cap-add", "aLL", "--cap-drop", "chown"), 16) == own & ~1
    if own >> 24 & 1 == 0:
        assert create(engine, {"CapAdd": ["sys_resource"]}) == (400, {
            "message": "invalid CapAdd: capability not supported by your kernel or not available in the current environment: "
                       '"CAP_SYS_RESOURCE"'})


@pytest.mark.parametrize("kind, name, shown", [
    ("CapAdd", "nope", "CAP_NOPE"), ("CapDrop", "nope", "CAP_NOPE"), ("CapAdd", "cap_all", "CAP_ALL"), ("CapAdd", "", "CAP_"),
    ("CapAdd", " CHOWN", "CAP_ CHOWN"), ("CapAdd", "é", "CAP_É"),
])
@pytest.mark.parametrize("privileged", [False, True])
def test_unknown_capabilities(engine, kind, name, shown, privileged):
    text = f'invalid {kind}: unknown capability: "{shown}"'
    assert create(engine, {kind: ["ALL", name], "Privileged": privileged}) == (400, {"message": text})


# --- users and groups ----------------------------------------------------------------------------

@pytest.mark.parametrize("user, add, groups", [
    ("", [], "0"), ("", ["0", "0"], "0 0"), ("alice", [], "50 1000"), ("alice", ["staff", "50"], "50 50 1000"), ("alice:staff", [], "50"),
    ("777", ["7", "8", "7"], "0 7 8"), ("0:50", ["staff"], "50 50"), (":50", [], "50"),
])
def test_groups(engine, user, add, groups):
    args = ["--user", user] if user else []
    args += [word for name in add for word in ("--group-add", name)]
    assert inside(engine, "grep Groups /proc/self/status | cut -f2", *args) == groups + " "


@pytest.mark.parametrize("host, config, text", [
    ({}, {"User": "nope"}, "unable to find user nope: no matching entries in passwd file"),
    ({}, {"User": "alice:nope"}, "unable to find group nope: no matching entries in group file"),
    ({"GroupAdd": ["nope"]}, {}, "unable to find group nope: no matching entries in group file"),
    ({}, {"User": "-1"}, "uids and gids must be in range 0-2147483647"),
    ({"GroupAdd": ["2147483648"]}, {}, "uids and gids must be in range 0-2147483647"),
])
def test_users_that_are_not_there(engine, host, config, text):
    assert text in start_error(engine, host, **config)


# --- limits --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, soft, hard, text", [
    ("nope", 1, 1, "wrong rlimit value: RLIMIT_NOPE"), ("", 1, 1, "wrong rlimit value: RLIMIT_"),
    ("nofile", 7, 5, "error setting rlimit type 7: invalid argument"), ("core", -1, 5, "error setting rlimit type 4: invalid argument"),
])
def test_limits_that_are_none(engine, name, soft, hard, text):
    assert start_error(engine, {"Ulimits": [{"Name": name, "Soft": soft, "Hard": hard}]}).endswith(text)


def test_limits_beyond_the_daemons(engine):
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    if own >> 24 & 1:
        pytest.skip("this daemon may raise limits")
    for name, hard, number in [("nproc", 1 << 40, 6), ("rtprio", 9, 14), ("memlock", 1 << 50, 8)]:
        text = f"error setting rlimits for ready process: error setting rlimit type {number}: operation not permitted"
        assert start_error(engine, {"Ulimits": [{"Name": name, "Soft": 1, "Hard": hard}]}).endswith(text)
    assert start_error(engine, {"OomScoreAdj": -1000})


def test_scores_that_are_none(engine):
    for score in (1001, -1001, 99999999999):
        text = f"Invalid value {score}, range for oom score adj is [-1000, 1000]"
        assert create(engine, {"OomScoreAdj": score}) == (400, {"message": text})
    assert inside(engine, "cat /proc/self/oom_score_adj", "--oom-score-adj", "1000") == "1000"
