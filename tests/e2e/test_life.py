"""What happens to containers without anybody asking: the daemon's start, a lack of memory; and what is refused meanwhile."""
import json
import os
import time
import urllib.parse

import pytest
from engine import wait_for

NONE = {"NetworkMode": "none"}
POLICIES = {"no": {"Name": "no"}, "always": {"Name": "always"}, "unless": {"Name": "unless-stopped"},
            "failure": {"Name": "on-failure"}, "twice": {"Name": "on-failure", "MaximumRetryCount": 2}}


def create(engine, name, *cmd, **host):
    status, doc = engine.json("POST", f"/v1.48/containers/create?name={name}",
                              {"Image": "busybox", "Cmd": list(cmd), "HostConfig": NONE | host})
    assert status == 201, doc
    return doc["Id"]


def post(engine, path, body=None):
    status, _, data = engine.http("POST", f"/v1.48/containers/{path}", body)
    return status, json.loads(data)["message"] if status >= 400 else ""


def run(engine, name, *cmd, **host):
    cid = create(engine, name, *cmd, **host)
    assert post(engine, f"{name}/start") == (204, "")
    return cid


def state(engine, name):
    return engine.inspect(name)["State"]


def events(engine, cid):
    text = engine.ok("events", "--since", "0", "--until", f"{time.time():.3f}", "--filter", f"container={cid}",
                     "--format", "{{.Action}}")
    return text.splitlines()


# --- the daemon's start --------------------------------------------------------------------------

@pytest.mark.gantry
@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_what_starts_with_the_daemon(private_daemon, how):
    """As dockerd: `on-failure` starts whatever failed, also by a client's hand; `always` what ended however it did."""
    eng = private_daemon
    for name, policy in POLICIES.items():
        create(eng, f"{name}-new", "true", RestartPolicy=policy)
        run(eng, f"{name}-stopped", "sleep", "600", RestartPolicy=policy)
        run(eng, f"{name}-clean", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done", RestartPolicy=policy)
        run(eng, f"{name}-updated", "true")
        wait_for(lambda: state(eng, f"{name}-updated")["Status"] == "exited", "it ends")
        eng.ok("update", "--restart", policy["Name"], f"{name}-updated")
    run(eng, "twice-spent", "false", RestartPolicy=POLICIES["twice"])
    for name in POLICIES:
        eng.ok("stop", "-t", "0", f"{name}-stopped")
        eng.ok("stop", f"{name}-clean")
    wait_for(lambda: eng.inspect("twice-spent")["RestartCount"] == 2 and
             state(eng, "twice-spent")["Status"] == "exited", "it gives up")
    before = {row: state(eng, row)["StartedAt"] for row in eng.ok("ps", "-a", "--format", "{{.Names}}").split()}
    getattr(eng, how)()
    eng.start()
    expected = {"always-stopped", "always-clean", "always-updated", "unless-updated", "failure-stopped",
                "twice-stopped"}

    def started():
        return {name for name, at in before.items() if state(eng, name)["StartedAt"] != at}
    wait_for(lambda: started() >= expected, "what should start does")
    time.sleep(0.5)
    assert started() == expected
    assert [state(eng, f"{n}-new")["Status"] for n in POLICIES] == ["created"] * 5


# --- lack of memory ------------------------------------------------------------------------------

EATS = "dd if=/dev/zero of=/dev/null bs=200M count=1"
LITTLE = {"Memory": 32 << 20, "MemorySwap": 32 << 20}


def test_kills_for_lack_of_memory_are_told_while_the_container_runs(engine):
    cid = run(engine, "box", "sleep", "600", **LITTLE)
    free = run(engine, "free", "sleep", "600")
    assert engine.cli("exec", "box", *EATS.split()).returncode == 137
    wait_for(lambda: state(engine, "box")["OOMKilled"], "it is shown")
    assert state(engine, "box")["Status"] == "running"
    assert wait_for(lambda: events(engine, cid).count("oom"), "it is told") == 1
    assert not state(engine, "free")["OOMKilled"] and "oom" not in events(engine, free)
    engine.cli("exec", "box", *EATS.split())
    wait_for(lambda: events(engine, cid).count("oom") == 2, "each is told")
    engine.ok("restart", "-t", "0", "box")
    assert not state(engine, "box")["OOMKilled"]
    engine.ok("rm", "-f", "box")
    assert events(engine, cid).count("oom") == 2


def test_a_kill_at_the_end_is_told_before_it(engine):
    main = run(engine, "main", *EATS.split(), **LITTLE)
    child = run(engine, "child", "sh", "-c", f"{EATS}; exit 5", **LITTLE)
    codes = {"main": 137, "child": 5}
    for name, cid in (("main", main), ("child", child)):
        wait_for(lambda: state(engine, name)["Status"] == "exited", "it ends")
        shown = state(engine, name)
        assert (shown["OOMKilled"], shown["ExitCode"]) == (True, codes[name])
        wait_for(lambda: "die" in events(engine, cid), "its end is told")
        assert events(engine, cid) == ["create", "start", "oom", "die"]


def test_a_limit_that_comes_later_is_watched_too(engine):
    cid = run(engine, "box", "sleep", "600")
    status, doc = engine.json("POST", "/v1.48/containers/box/update", LITTLE)
    assert status == 200, doc
    engine.cli("exec", "box", *EATS.split())
    wait_for(lambda: state(engine, "box")["OOMKilled"] and "oom" in events(engine, cid), "it is told")


@pytest.mark.gantry
def test_a_kill_is_known_to_the_next_daemon(private_daemon):
    eng = private_daemon
    cid = run(eng, "box", "sleep", "600", **LITTLE)
    eng.cli("exec", "box", *EATS.split())
    wait_for(lambda: state(eng, "box")["OOMKilled"], "it is shown")
    eng.kill9()
    eng.start()
    assert state(eng, "box")["OOMKilled"] and state(eng, "box")["Status"] == "running"
    time.sleep(0.3)
    assert "oom" not in events(eng, cid), "it was told"
    eng.cli("exec", "box", *EATS.split())
    wait_for(lambda: events(eng, cid).count("oom") == 1, "the next one is told")


# --- refusals, top, pause ------------------------------------------------------------------------

def test_a_paused_container_refuses(engine):
    cid = run(engine, "box", "sleep", "600")
    engine.ok("pause", "box")
    assert post(engine, "box/pause") == (409, f"Container {cid} is already paused")
    assert post(engine, "box/start") == (409, "cannot start a paused container, try unpause instead")
    assert post(engine, "box/exec", {"Cmd": ["true"]}) == (
        409, "Container box is paused, unpause the container before exec")
    status, _, data = engine.http("POST", "/v1.48/containers/box/attach?stream=1")
    assert status == 409 and b"container box is paused, unpause the container before attach" in data
    assert engine.json("GET", "/v1.48/containers/box/top")[1]["Processes"][0][-1] == "sleep 600"
    engine.ok("kill", "box")
    wait_for(lambda: "die" in events(engine, cid), "its end is told")
    assert [e for e in events(engine, cid) if e != "top"] == ["create", "start", "pause", "kill", "die"]
    assert post(engine, "box/pause") == (409, f"container {cid} is not running")
    assert post(engine, "box/unpause") == (500, f"Container {cid} is not paused")


@pytest.mark.parametrize("arguments, titles", [
    ("", ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]),
    ("-eo pid,ppid,comm,args", ["PID", "PPID", "COMMAND", "COMMAND"]),
    ("-o pid -o comm", ["PID", "COMMAND"]),
    ("aux", ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]),
])
def test_top(engine, arguments, titles):
    run(engine, "box", "sleep", "600")
    status, doc = engine.json("GET", "/v1.48/containers/box/top?ps_args=" + urllib.parse.quote(arguments))
    assert status == 200 and doc["Titles"] == titles, doc
    (row,) = doc["Processes"]
    assert row[titles.index("PID")] == str(state(engine, "box")["Pid"]) and row[-1].startswith("sleep")


@pytest.mark.parametrize("arguments, message", [
    ("-o cmd", "Couldn't find PID field in ps output"),
    ("-o pid=x", "Couldn't find PID field in ps output"),
    ("-ef --no-headers", "Couldn't find PID field in ps output"),
    ("-o cmd=PID", 'specifying "cmd=PID" is not allowed'),
    ("-zz", "ps: error: unsupported SysV option"),
    ("-o PID,cmd", 'ps: error: unknown user-defined format specifier "PID"'),
])
def test_top_refuses(engine, arguments, message):
    run(engine, "box", "sleep", "600")
    status, doc = engine.json("GET", "/v1.48/containers/box/top?ps_args=" + urllib.parse.quote(arguments))
    # dockerd says the same with a 500.
    assert status == (500 if os.environ.get("GANTRY_TEST_HOST") else 400) and doc["message"] == message


def test_top_of_others_shows_nothing(engine):
    run(engine, "box", "sleep", "600")
    assert engine.json("GET", "/v1.48/containers/box/top?ps_args=-p1")[1]["Processes"] is None
