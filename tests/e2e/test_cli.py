"""The docker CLI's container commands."""
import json
import re
import subprocess
import time

import pytest
from engine import wait_for

HEX64 = re.compile(r"^[0-9a-f]{64}$")
SLEEP = ["busybox", "sleep", "600"]


def run(engine, *args):
    return engine.ok("run", "-d", *args)


def test_detached_and_inspect(engine):
    cid = run(engine, "--name", "web", "--label", "a=1", "-e", "K=V", *SLEEP)
    assert HEX64.match(cid)
    doc = engine.inspect("web")
    assert doc["Id"] == cid and doc["Name"] == "/web"
    assert doc["Path"] == "sleep" and doc["Args"] == ["600"]
    state = doc["State"]
    assert state["Status"] == "running" and state["Running"] is True and state["Pid"] > 0
    assert state["FinishedAt"] == "0001-01-01T00:00:00Z" and state["ExitCode"] == 0
    assert doc["Config"]["Labels"] == {"a": "1"} and "K=V" in doc["Config"]["Env"]
    assert doc["Config"]["Image"] == "busybox" and doc["Image"].startswith("sha256:")
    assert doc["Config"]["Hostname"] == cid[:12]
    assert doc["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", cid[:5]) == "running 0"


def test_names(engine):
    cid = run(engine, *SLEEP)
    assert re.match(r"^/[a-z]+_[a-z]+\d?$", engine.inspect(cid)["Name"])
    run(engine, "--name", "taken", *SLEEP)
    done = engine.cli("run", "-d", "--name", "taken", *SLEEP)
    assert done.returncode == 125
    assert re.search(r'Conflict\. The container name "/taken" is already in use by container "[0-9a-f]{64}"\. '
                     r"You have to remove \(or rename\) that container to be able to reuse that name\.", done.stderr)
    done = engine.cli("create", "--name", "_bad", *SLEEP)
    assert "Invalid container name (_bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in done.stderr
    assert "No such container: nope" in engine.cli("inspect", "--type", "container", "nope").stderr


def test_ps_filters_and_formats(engine):
    up = run(engine, "--name", "up", "--label", "x=1", "--label", "y", *SLEEP)
    engine.cli("run", "--name", "down", "--label", "x=2", "busybox", "sh", "-c", "exit 3")
    engine.ok("create", "--name", "made", "busybox", "true")

    def names(*filters):
        args = [a for f in filters for a in ("--filter", f)]
        return sorted(engine.ok("ps", "-a", "--format", "{{.Names}}", *args).split())
    assert engine.ok("ps", "-q") == up[:12]
    assert engine.ok("ps", "-q", "--no-trunc") == up
    assert names() == ["down", "made", "up"]
    assert names("status=running") == ["up"]
    assert names("status=exited") == ["down"]
    assert names("status=created") == ["made"]
    assert names("status=running", "status=created") == ["made", "up"]
    assert names("exited=3") == ["down"] and names("exited=0") == []
    assert names("label=x") == ["down", "up"] and names("label=x=2") == ["down"] and names("label=y") == ["up"]
    assert names("name=^/u") == ["up"] and names("name=d") == ["down", "made"]
    assert names(f"id={up[:8]}") == ["up"]
    assert names("ancestor=busybox") == ["down", "made", "up"]
    assert names("before=down") == ["up"] and names("since=down") == ["made"]
    assert names("network=none") == []
    bad = engine.cli("ps", "--filter", "nosuch=1")
    assert bad.returncode == 1 and "invalid filter 'nosuch'" in bad.stderr
    rows = [json.loads(x) for x in engine.ok("ps", "-a", "--format", "json").splitlines()]
    by_name = {r["Names"]: r for r in rows}
    assert by_name["down"]["State"] == "exited" and by_name["down"]["Status"].startswith("Exited (3) ")
    assert by_name["up"]["Status"].startswith("Up ") and by_name["made"]["Status"] == "Created"
    assert by_name["up"]["Command"] == '"sleep 600"' and by_name["up"]["Image"] == "busybox"
    assert len(engine.ok("ps", "-a", "-n", "2", "-q").split()) == 2
    assert engine.ok("ps", "-l", "--format", "{{.Names}}") == "made"
    assert "virtual" in engine.ok("ps", "-s")


def test_logs(engine):
    engine.cli("run", "--name", "lg", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; done; echo e >&2")
    done = engine.cli("logs", "lg")
    assert (done.stdout, done.stderr) == ("1\n2\n3\n4\n5\n", "e\n")
    assert engine.cli("logs", "--tail", "2", "lg").stdout.splitlines()[-1] == "5"
    assert engine.cli("logs", "-n", "0", "lg").stdout == ""
    stamped = engine.cli("logs", "-t", "lg").stdout.splitlines()
    stamp = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (\d)$")
    assert [stamp.match(x)[2] for x in stamped] == list("12345")
    third = stamp.match(stamped[2])[1]
    assert engine.cli("logs", "--since", third, "lg").stdout.splitlines()[:1] == ["3"]
    assert engine.cli("logs", "--until", third, "lg").stdout.splitlines()[-1] == "3"
    assert engine.cli("logs", "--since", "1h", "lg").stdout == done.stdout
    assert engine.cli("logs", "--until", "1h", "lg").stdout == ""
    status, doc = engine.json("GET", "/containers/lg/logs")
    assert status == 400 and "you must choose at least one stream" in doc["message"]


def test_logs_follow(engine):
    run(engine, "--name", "lf", "-i", "busybox", "sh", "-c", "echo first; read x; echo second")
    follow = engine.popen("logs", "-f", "lf", stdout=subprocess.PIPE)
    assert follow.stdout.readline() == b"first\n"
    with engine.popen("attach", "lf", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attach:
        attach.stdin.write(b"go\n")
        attach.stdin.flush()
        assert follow.stdout.readline() == b"second\n"
        assert attach.stdout.read().endswith(b"second\n")
    assert follow.stdout.read() == b""
    assert follow.wait(60) == 0
    follow.stdout.close()


def test_long_lines_survive(engine):
    size = 100_000
    engine.ok("run", "--name", "ll", "busybox", "sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x; echo; echo end")
    assert engine.ok("logs", "ll") == "x" * size + "\nend"


def test_stop_is_grace_then_kill(engine):
    run(engine, "--name", "s1", "busybox", "sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: engine.ok("logs", "s1") == "up", "the trap is set")
    assert engine.ok("stop", "s1") == "s1"
    state = engine.inspect("s1")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 4, 0)
    run(engine, "--name", "s2", "busybox", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: engine.ok("logs", "s2") == "up", "the trap is set")
    begin = time.monotonic()
    engine.ok("stop", "-t", "1", "s2")
    assert time.monotonic() - begin >= 1
    assert engine.inspect("s2")["State"]["ExitCode"] == 137
    engine.ok("stop", "s2")  # not modified is fine
    assert engine.http("POST", "/containers/s2/stop")[0] == 304
    run(engine, "--name", "s3", "--stop-signal", "USR1", "busybox", "sh", "-c",
        "trap 'exit 8' USR1; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: engine.ok("logs", "s3") == "up", "the trap is set")
    engine.ok("stop", "s3")
    assert engine.inspect("s3")["State"]["ExitCode"] == 8


def test_kill(engine):
    run(engine, "--name", "kk", "busybox", "sh", "-c", "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: engine.ok("logs", "kk") == "up", "the trap is set")
    engine.ok("kill", "-s", "HUP", "kk")
    wait_for(lambda: "hup" in engine.ok("logs", "kk"), "the signal arrives")
    assert engine.inspect("kk")["State"]["Running"]
    assert "cannot kill container: kk: invalid signal: NOPE" in engine.cli("kill", "-s", "NOPE", "kk").stderr
    engine.ok("kill", "kk")
    assert engine.ok("wait", "kk") == "137"
    done = engine.cli("kill", "kk")
    assert re.search(r"cannot kill container: kk: container [0-9a-f]{64} is not running", done.stderr)


def test_restart_and_start(engine):
    run(engine, "--name", "rr", "busybox", "sh", "-c", "echo life; exec sleep 600")
    wait_for(lambda: engine.ok("logs", "rr") == "life", "it runs")
    first = engine.inspect("rr")["State"]
    engine.ok("restart", "-t", "0", "rr")
    wait_for(lambda: engine.ok("logs", "rr") == "life\nlife", "it runs again")
    second = engine.inspect("rr")["State"]
    assert second["Running"] and second["Pid"] != first["Pid"] and second["StartedAt"] > first["StartedAt"]
    assert engine.http("POST", "/containers/rr/start")[0] == 304
    engine.ok("stop", "-t", "0", "rr")
    engine.ok("start", "rr")
    wait_for(lambda: engine.ok("logs", "rr") == "life\nlife\nlife", "it runs a third time")


def test_files_stay_over_a_restart(engine):
    engine.ok("run", "--name", "fs", "busybox", "sh", "-c", "cat /f 2>/dev/null; echo more >>/f")
    assert engine.ok("start", "-a", "fs") == "more"
    assert engine.ok("start", "-a", "fs") == "more\nmore"


def test_start_attached_gives_the_exit_code(engine):
    engine.ok("create", "--name", "sa", "-i", "busybox", "sh", "-c", "cat; exit 12")
    done = engine.cli("start", "-ai", "sa", input="through\n")
    assert (done.returncode, done.stdout) == (12, "through\n")


def test_wait_conditions(engine):
    engine.ok("create", "--name", "ww", "busybox", "sh", "-c", "exit 21")
    with engine.connect() as sock:
        sock.sendall(b"POST /v1.48/containers/ww/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:  # the head comes before the wait ends
            head += sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 200 ")
        engine.ok("start", "ww")
        body = head.partition(b"\r\n\r\n")[2]
        while b"StatusCode" not in body or b"}" not in body:
            body += sock.recv(4096)
        assert b'"StatusCode":21' in body
    assert engine.json("POST", "/v1.48/containers/ww/wait")[1]["StatusCode"] == 21
    assert engine.json("POST", "/v1.48/containers/ww/wait?condition=nonsense")[0] == 400
    waiter = engine.popen("wait", "w2", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert waiter.wait(60) == 1
    waiter.communicate()


def test_rename(engine):
    cid = run(engine, "--name", "old", *SLEEP)
    engine.ok("rename", "old", "new")
    assert engine.inspect("new")["Id"] == cid
    assert engine.cli("inspect", "--type", "container", "old").returncode == 1
    run(engine, "--name", "old", *SLEEP)
    done = engine.cli("rename", "old", "new")
    assert "is already in use by container" in done.stderr
    done = engine.cli("rename", "new", "new")
    assert "Renaming a container with the same name as its current name" in done.stderr


def test_rm(engine):
    cid = run(engine, "--name", "rmme", *SLEEP)
    done = engine.cli("rm", "rmme")
    assert done.returncode == 1
    assert f'cannot remove container "rmme": container is running: stop the container before removing or force ' \
           f"remove" in done.stderr.replace('"/rmme"', '"rmme"')
    assert engine.ok("rm", "-f", "rmme") == "rmme"
    assert engine.json("GET", f"/containers/{cid}/json") == (404, {"message": f"No such container: {cid}"})


def test_auto_remove_after_detach(engine):
    cid = run(engine, "--rm", "busybox", "true")
    wait_for(lambda: engine.http("GET", f"/containers/{cid}/json")[0] == 404, "it removes itself")


def test_top(engine):
    run(engine, "--name", "tt", "busybox", "sh", "-c", "sleep 601 & exec sleep 600")
    if 'exec: "ps": executable file not found' in engine.cli("top", "tt").stderr:
        pytest.skip("dockerd wants the ps program, which its chroot has not")
    wait_for(lambda: engine.ok("top", "tt").count("sleep 60") == 2, "both processes")
    assert engine.ok("top", "tt").split("\n")[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    out = engine.ok("top", "tt", "-o", "pid,args").splitlines()
    assert out[0].split()[0] == "PID" and any("sleep 601" in x for x in out)


def test_prefix_must_be_unambiguous(engine):
    ids = [engine.ok("create", "busybox", "true") for _ in range(17)]
    first = {}
    for cid in ids:
        if cid[0] in first:
            done = engine.cli("inspect", "--type", "container", cid[0])
            assert done.returncode == 1
            status, doc = engine.json("GET", f"/containers/{cid[0]}/json")
            assert status == 400 and "multiple IDs found with provided prefix" in doc["message"]
            return
        first[cid[0]] = cid
    pytest.fail("17 ids without a shared first digit")


def test_pause(engine):
    run(engine, "--name", "pp", *SLEEP)
    done = engine.cli("pause", "pp")
    if done.returncode and "not implemented" in done.stderr.lower():
        pytest.skip("pause is not built yet, and says so")
    assert engine.inspect("pp")["State"]["Status"] == "paused"
    engine.ok("unpause", "pp")
    assert engine.inspect("pp")["State"]["Status"] == "running"


def test_events(engine):
    since = engine.json("GET", "/info")[1]["SystemTime"]
    follower = engine.popen("events", "--since", since, "--filter", "container=ev", "--format",
                            "{{.Type}} {{.Action}}", stdout=subprocess.PIPE)
    engine.cli("run", "--name", "ev", "--label", "l=v", "busybox", "sh", "-c", "exit 2")
    engine.ok("rename", "ev", "ev2")
    engine.ok("rename", "ev2", "ev")
    engine.ok("rm", "ev")
    got = []
    while not got or got[-1] != "container destroy":
        line = follower.stdout.readline().decode().strip()
        assert line, f"events ended after {got}"
        got.append(line)
    follower.terminate()
    follower.wait(60)
    follower.stdout.close()
    want = ["container create", "container attach", "container start", "container die", "container destroy"]
    assert [g for g in got if g in want] == want
    assert "container rename" in got
    until = engine.json("GET", "/info")[1]["SystemTime"]
    past = [json.loads(x) for x in engine.ok("events", "--since", since, "--until", until, "--filter",
                                             "event=die", "--format", "json").splitlines()]
    actor = [p for p in past if p["Actor"]["Attributes"].get("name") == "ev"][0]["Actor"]
    assert actor["Attributes"]["exitCode"] == "2" and actor["Attributes"]["l"] == "v"
    assert actor["Attributes"]["image"] == "busybox" and HEX64.match(actor["ID"])


def test_wait_ends_at_every_exit_of_a_container_with_a_restart_policy(engine):
    engine.ok("run", "-d", "--name", "again", "--network", "none", "--restart", "always", "busybox", "sh", "-c", "sleep 0.5; exit 3")
    assert engine.ok("wait", "again") == "3"
    assert engine.ok("wait", "again") == "3"
    engine.ok("rm", "-f", "again")
