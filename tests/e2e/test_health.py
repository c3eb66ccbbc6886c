"""Health checks: what they run, what is shown of it, when they run, and what of them outlives the daemon."""
import concurrent.futures
import datetime
import json
import os
import signal
import time

import leaks
import pytest
from conftest import FULL
from engine import wait_for

NONE = {"NetworkMode": "none"}
MS, S = 1_000_000, 1_000_000_000
SOON = 200 * MS


def check(*test, **more):
    return {"Test": list(test), "Interval": SOON} | more


def shell(script, **more):
    return check("CMD-SHELL", script, **more)


def create(engine, name, healthcheck=None, status=201, version="v1.48", **config):
    config = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": NONE} | config
    if healthcheck is not None:
        config["Healthcheck"] = healthcheck
    got, doc = engine.json("POST", f"/{version}/containers/create?name={name}", config)
    assert got == status, doc
    return doc


def run(engine, name, healthcheck, **config):
    create(engine, name, healthcheck, **config)
    status, doc = engine.json("POST", f"/v1.48/containers/{name}/start")
    assert status == 204, doc


def inspect(engine, name):
    status, doc = engine.json("GET", f"/v1.48/containers/{name}/json")
    assert status == 200, doc
    return doc


def health(engine, name):
    return inspect(engine, name)["State"].get("Health")


def until(engine, name, status):
    """Waits for a health, and gives it."""
    return wait_for(lambda: (h := health(engine, name)) and h["Status"] == status and h, f"{name} is {status}")


def shown(engine, name):
    """The configured check as inspect shows it."""
    return inspect(engine, name)["Config"].get("Healthcheck")


def moment(text):
    """Seconds of a time of inspect."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    stamp = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp()
    return stamp + float(f"0.{fraction or 0}")


def events(engine, name, since="0"):
    text = engine.ok("events", "--since", since, "--until", f"{time.time():.3f}", "--filter",
                     f"container={inspect(engine, name)['Id']}", "--format", "json")
    return [json.loads(line) for line in text.splitlines()]


def listed(engine, name):
    return engine.ok("ps", "-a", "--filter", f"name=^{name}$", "--format", "{{.Status}}")


def names(engine, wanted):
    return set(engine.ok("ps", "-a", "--filter", f"health={wanted}", "--format", "{{.Names}}").split())


# --- what is run, and what is shown of it --------------------------------------------------------

RUNS = {  # check, other settings, then: health, exit code and output of a result
    "exec": (check("CMD", "echo", "$0", "a b"), {}, "healthy", 0, "$0 a b\n"),
    "shell": (shell("{ echo $A; pwd; } >&2"), {"Env": ["A=b"], "WorkingDir": "/tmp"}, "healthy", 0, "b\n/tmp\n"),
    "own-shell": (shell("$0 x", ), {"Shell": ["/bin/echo", "-n"]}, "healthy", 0, "$0 x"),
    "fails": (shell("exit 3", Retries=2), {}, "unhealthy", 3, ""),
    "no-program": (check("CMD", "/nope", Retries=1), {}, "unhealthy", -1, "OCI runtime exec failed: exec failed: unable "
                   'to start container process: exec: "/nope": stat /nope: no such file or directory'),
    "long": (shell("head -c 5000 /dev/zero | tr '\\0' x"), {}, "healthy", 0, "x" * 4096 + "..."),
    "exact": (shell("head -c 4096 /dev/zero | tr '\\0' x"), {}, "healthy", 0, "x" * 4096),
    "bytes": (check("CMD", "printf", "a\\377\\376\\000b"), {}, "healthy", 0, "a\ufffd\ufffd\0b"),
    "slow": (check("CMD", "sleep", "600", Timeout=300 * MS, Retries=1), {}, "unhealthy", -1,
             "Health check exceeded timeout (300ms)"),
    "slow-talker": (shell("echo hi; sleep 600; true", Timeout=1500 * MS, Retries=1), {}, "unhealthy", -1,
                    "Health check exceeded timeout (1.5s): hi\n"),
}
NOT_RUN = {"none": check("NONE"), "nothing": {}, "no-test": {"Interval": SOON}, "unknown": check("FOO", "x")}


def test_what_is_run_and_shown(engine):
    for name, (wanted, more, *_) in RUNS.items():
        run(engine, name, wanted, **more)
    for name, wanted in NOT_RUN.items():
        run(engine, name, wanted)
    create(engine, "waits", check("CMD", "true"))
    for name, (_, _, status, code, output) in RUNS.items():
        found = until(engine, name, status)
        result = found["Log"][0]
        if not (name == "slow-talker" and os.environ.get("GANTRY_TEST_HOST")):
            assert (result["ExitCode"], result["Output"]) == (code, output), name
        assert set(result) == {"Start", "End", "ExitCode", "Output"} and len(found["Log"]) <= 5
        assert (found["FailingStreak"] > 0) == (status == "unhealthy"), found
        assert listed(engine, name).startswith("Up ") and listed(engine, name).endswith(f" ({status})")
    for name in [*NOT_RUN, "waits"]:
        assert health(engine, name) is None and "health" not in listed(engine, name)
    assert names(engine, "healthy") == {n for n, r in RUNS.items() if r[2] == "healthy"}
    assert names(engine, "unhealthy") == {n for n, r in RUNS.items() if r[2] == "unhealthy"}
    assert names(engine, "none") == {*NOT_RUN, "waits"}
    wait_for(lambda: len(health(engine, "exec")["Log"]) == 5, "five results are kept")


def test_a_probe_is_an_exec_of_the_containers_user(engine):
    run(engine, "box", shell("id -un; sleep 600"), User="alice", WorkingDir="/tmp")
    (eid,) = wait_for(lambda: inspect(engine, "box")["ExecIDs"], "the probe is listed")
    doc = wait_for(lambda: (d := engine.json("GET", f"/v1.48/exec/{eid}/json")[1])["Running"] and d, "it runs")
    assert doc["ProcessConfig"] == {"tty": False, "entrypoint": "/bin/sh", "arguments": ["-c", "id -un; sleep 600"],
                                    "privileged": False, "user": "alice"}
    assert (doc["OpenStdin"], doc["OpenStdout"], doc["OpenStderr"]) == (False, True, True)
    engine.ok("stop", "-t", "0", "box")
    assert health(engine, "box") == {"Status": "unhealthy", "FailingStreak": 0, "Log": []} or \
        [r["ExitCode"] for r in health(engine, "box")["Log"]] == [137]
    assert inspect(engine, "box")["ExecIDs"] is None


def test_events(engine):
    run(engine, "ev", shell("test -e /ok", Retries=1), Labels={"l": "1"})
    until(engine, "ev", "unhealthy")
    engine.ok("exec", "ev", "touch", "/ok")
    until(engine, "ev", "healthy")
    engine.ok("stop", "-t", "0", "ev")
    told = events(engine, "ev")
    probes = [e for e in told if "execID" in e["Actor"]["Attributes"] and "touch" not in e["Action"]]
    first = [e for e in probes if e["Actor"]["Attributes"]["execID"] == probes[0]["Actor"]["Attributes"]["execID"]]
    assert [e["Action"] for e in first] == ["exec_create: /bin/sh -c test -e /ok", "exec_start: /bin/sh -c test -e /ok",
                                            "exec_die"]
    assert first[-1]["Actor"]["Attributes"]["exitCode"] == "1"
    statuses = [e for e in told if e["Action"].startswith("health_status")]
    assert [e["Action"] for e in statuses] == ["health_status: unhealthy", "health_status: healthy"]
    assert statuses[0]["Actor"]["Attributes"] == {"image": "busybox", "name": "ev", "l": "1"}
    actions = [e["Action"] for e in told]
    assert actions.index("exec_die") < actions.index("health_status: unhealthy")
    text = engine.ok("events", "--since", "0", "--until", f"{time.time():.3f}", "--filter", "event=health_status",
                     "--filter", f"container={inspect(engine, 'ev')['Id']}", "--format", "{{.Action}}")
    assert text.splitlines() == ["health_status: unhealthy", "health_status: healthy"]


# --- configuration -------------------------------------------------------------------------------

IMAGE = {"Test": ["CMD-SHELL", "exit 0"], "Interval": 400 * MS, "Timeout": 2 * S, "StartPeriod": S,
         "StartInterval": 300 * MS, "Retries": 2}


@pytest.fixture
def checked_image(engine, image_tar, workdir):
    """An image with a health check."""
    engine.ok("create", "--name", "base", "busybox", "true")
    archive = workdir / "checked.tar"
    archive.write_bytes(bytes(10240))
    engine.ok("import", "-c", "HEALTHCHECK --interval=400ms --timeout=2s --start-period=1s --start-interval=300ms "
              "--retries=2 CMD exit 0", str(archive), "checked:1")
    yield "checked:1"
    engine.remove_all()
    engine.ok("rmi", "checked:1")


@pytest.mark.parametrize("own, merged", [
    (None, IMAGE),
    ({}, IMAGE),
    ({"Test": []}, IMAGE),
    ({"Test": ["NONE"]}, IMAGE | {"Test": ["NONE"]}),
    ({"Interval": 5 * MS}, IMAGE | {"Interval": 5 * MS}),
    ({"Test": ["CMD", "true"], "Retries": 7}, IMAGE | {"Test": ["CMD", "true"], "Retries": 7}),
])
def test_inherited_field_by_field(engine, checked_image, own, merged):
    assert create(engine, "heir", own, Image=checked_image)["Warnings"] == []
    assert shown(engine, "heir") == merged


@pytest.mark.parametrize("bad, message", [
    ({"Interval": 5}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Interval": -5}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Timeout": 5}, "Timeout in Healthcheck cannot be less than 1ms"),
    ({"StartPeriod": 5}, "StartPeriod in Healthcheck cannot be less than 1ms"),
    ({"StartInterval": 5}, "StartInterval in Healthcheck cannot be less than 1ms"),
    ({"Retries": -1}, "Retries in Healthcheck cannot be negative"),
    ({"Retries": -1, "StartPeriod": 5}, "Retries in Healthcheck cannot be negative"),
    ({"Test": ["NONE"], "Interval": 5}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Test": "x"}, "invalid JSON: json: cannot unmarshal string into Go struct field .Healthcheck.Test of type []string"),
    ({"Interval": "1s"},
     "invalid JSON: json: cannot unmarshal string into Go struct field .Healthcheck.Interval of type time.Duration"),
])
def test_refused(engine, bad, message):
    assert create(engine, "bad", bad, status=400)["message"] == message


def test_old_clients_know_no_start_interval(engine):
    wanted = {"Test": ["CMD", "x"], "StartInterval": 5 * MS, "StartPeriod": 8 * MS}
    create(engine, "new", wanted, version="v1.44")
    create(engine, "old", wanted, version="v1.43")
    create(engine, "wrong", {"Test": ["CMD", "x"], "StartInterval": 5}, version="v1.43")
    assert shown(engine, "new") == wanted
    assert shown(engine, "old") == {"Test": ["CMD", "x"], "StartPeriod": 8 * MS}
    assert shown(engine, "wrong") == {"Test": ["CMD", "x"]}


def test_flags_of_the_cli(engine):
    engine.ok("create", "--name", "flags", "--health-cmd", "x", "--health-interval", "2s", "--health-timeout", "4s",
              "--health-start-period", "3s", "--health-retries", "4", "busybox")
    assert shown(engine, "flags") == {"Test": ["CMD-SHELL", "x"], "Interval": 2 * S, "Timeout": 4 * S,
                                      "StartPeriod": 3 * S, "Retries": 4}
    engine.ok("create", "--name", "off", "--no-healthcheck", "busybox")
    assert shown(engine, "off") == {"Test": ["NONE"]}


def test_docker_py(engine):
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=engine.host, timeout=120)
    try:
        box = client.containers.run("busybox", ["sleep", "600"], detach=True, network_mode="none",
                                    healthcheck={"test": ["CMD", "true"], "interval": SOON, "retries": 2})
        wait_for(lambda: box.reload() or box.health == "healthy", "docker-py sees that it is healthy")
        box.remove(force=True)
    finally:
        client.close()


# --- when they run -------------------------------------------------------------------------------

def test_failures_count_from_the_last_success_on(engine):
    run(engine, "box", shell("test -e /ok", Retries=3))
    wait_for(lambda: health(engine, "box")["FailingStreak"] >= 1, "it fails")
    engine.ok("exec", "box", "touch", "/ok")
    assert until(engine, "box", "healthy")["FailingStreak"] == 0
    engine.ok("exec", "box", "rm", "/ok")
    seen = set()

    def unhealthy():
        found = health(engine, "box")
        seen.add((found["Status"], found["FailingStreak"]))
        return found["Status"] == "unhealthy"
    wait_for(unhealthy, "it is unhealthy", step_s=0.01)
    assert all(streak < 3 for status, streak in seen if status == "healthy"), seen
    assert min(streak for status, streak in seen if status == "unhealthy") >= 3


def test_start_period(engine):
    """In it failures do not count and the start interval holds, until a first success."""
    start = dict(StartPeriod=1500 * MS, StartInterval=300 * MS, Retries=1)
    run(engine, "fails", shell("exit 1", Interval=1 * S, **start))
    run(engine, "works", shell("exit 0", Interval=1 * S, **start))
    run(engine, "default", shell("exit 1", Interval=1 * S, StartPeriod=600 * S, Retries=1))
    fails = until(engine, "fails", "unhealthy")
    began = moment(inspect(engine, "fails")["State"]["StartedAt"])
    counted = fails["Log"][-1] if fails["FailingStreak"] == 1 else fails["Log"][-fails["FailingStreak"]]
    assert moment(counted["Start"]) - began >= 1.4, fails
    starts = [moment(r["Start"]) for r in fails["Log"] if moment(r["Start"]) <= moment(counted["Start"])]
    assert len(starts) >= 2 and all(b - a < 0.95 for a, b in zip(starts, starts[1:])), starts
    wait_for(lambda: len(health(engine, "works")["Log"]) >= 3, "three probes")
    log = health(engine, "works")["Log"]
    if len(log) < 5:
        assert moment(log[0]["Start"]) - moment(inspect(engine, "works")["State"]["StartedAt"]) < 0.95
    gaps = [moment(b["Start"]) - moment(a["End"]) for a, b in zip(log, log[1:])]
    assert all(gap >= 0.99 for gap in gaps), gaps
    # The start interval's default of 5 s counts although the interval is shorter.
    first = wait_for(lambda: health(engine, "default")["Log"], "a first probe")[0]
    assert moment(first["Start"]) - moment(inspect(engine, "default")["State"]["StartedAt"]) >= 4.9
    assert health(engine, "default")["Status"] == "starting"


def test_pause_and_unpause(engine):
    run(engine, "box", check("CMD", "true"))
    until(engine, "box", "healthy")
    engine.ok("pause", "box")
    paused = health(engine, "box")
    assert paused["Status"] == "unhealthy" and listed(engine, "box").endswith("(Paused)")
    time.sleep(0.8)
    assert health(engine, "box") == paused
    engine.ok("unpause", "box")
    after = until(engine, "box", "healthy")
    assert after["Log"][-1] != paused["Log"][-1]


def test_a_probe_that_a_pause_meets_does_not_count(engine):
    run(engine, "box", shell("echo hi; sleep 1; exit 9"))
    wait_for(lambda: inspect(engine, "box")["ExecIDs"], "a probe runs")
    engine.ok("pause", "box")
    time.sleep(1.5)
    engine.ok("unpause", "box")
    log = wait_for(lambda: health(engine, "box")["Log"], "a result")
    thawed = [e for e in events(engine, "box") if e["Action"] == "unpause"][0]["timeNano"] / 1e9
    assert moment(log[0]["Start"]) > thawed - 0.05 and log[0]["ExitCode"] == 9


def test_a_start_begins_anew(engine):
    run(engine, "box", check("CMD", "true"))
    until(engine, "box", "healthy")
    engine.ok("stop", "-t", "0", "box")
    ended = health(engine, "box")
    assert ended["Status"] == "unhealthy" and listed(engine, "box").startswith("Exited")
    assert names(engine, "unhealthy") == {"box"}
    time.sleep(0.5)
    assert health(engine, "box") == ended, "what does not run is not probed"
    engine.ok("start", "box")
    began = health(engine, "box")
    assert began["Status"] in ("starting", "healthy") and began["Log"][:len(ended["Log"])][0] in ended["Log"]
    until(engine, "box", "healthy")
    assert [e["Action"] for e in events(engine, "box") if "health" in e["Action"]] == ["health_status: healthy"] * 2


def test_a_restart_by_policy_begins_anew(engine):
    run(engine, "box", shell("exit 1", Retries=1), Cmd=["sh", "-c", "sleep 1; exit 1"],
        HostConfig=NONE | {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}})
    wait_for(lambda: inspect(engine, "box")["State"]["Status"] == "exited", "it gives up")
    statuses = [e["Action"] for e in events(engine, "box") if "health" in e["Action"] or e["Action"] == "start"]
    assert statuses == ["start", "health_status: unhealthy"] * 2


def test_stuck_probes_never_pile_up(engine):
    run(engine, "box", shell("sleep 600; true", Timeout=200 * MS))
    if os.environ.get("GANTRY_TEST_HOST"):
        pytest.skip("dockerd kills the shell and leaves its child")
    most = 0
    for _ in range(15):
        processes = engine.json("GET", "/v1.48/containers/box/top")[1]["Processes"]
        most = max(most, sum("sleep 600" in p[-1] for p in processes))
        time.sleep(0.1)
    assert most <= 3, "the container's, and a probe's shell and child"
    assert until(engine, "box", "unhealthy")["FailingStreak"] >= 3


FREEZER = "/sys/fs/cgroup/freezer/docker"


@pytest.mark.gantry
@pytest.mark.skipif(not os.path.isdir("/sys/fs/cgroup/freezer"), reason="with cgroup2 a frozen process can be killed")
def test_a_probe_that_can_not_be_killed_counts_as_failing(engine):
    run(engine, "box", shell("sleep 2; true", Timeout=800 * MS, Retries=3))
    wait_for(lambda: inspect(engine, "box")["ExecIDs"], "a probe runs")
    freezer = f"{FREEZER}/{inspect(engine, 'box')['Id']}/freezer.state"
    with open(freezer, "w") as f:
        f.write("FROZEN")
    try:
        found = until(engine, "box", "unhealthy")
        assert found["FailingStreak"] == 3
        assert [r["Output"] for r in found["Log"][-2:]] == ["the health check before this one does not end"] * 2
        assert len(inspect(engine, "box")["ExecIDs"]) == 1, "and none is beside it"
    finally:
        with open(freezer, "w") as f:
            f.write("THAWED")
    wait_for(lambda: health(engine, "box")["Log"][-1]["Output"] == "Health check exceeded timeout (800ms)",
             "probing goes on")


@pytest.mark.gantry
def test_a_container_that_waits_for_its_probe_costs_nothing(engine):
    """Neither a task nor a descriptor."""
    def cost():
        return {key: sum(s[key] for s in engine.debug()["shards"]) for key in ("tasks_alive", "mailbox_len")} | {
            "fds": len(os.listdir(f"/proc/{engine.pid}/fd"))}

    def settled():
        """The least of three seconds: the daemon's own work comes and goes."""
        seen = []
        for _ in range(30):
            seen.append(cost())
            time.sleep(0.1)
        return {key: min(each[key] for each in seen) for key in seen[0]}
    many = 8
    engine.ok("run", "-d", "--network", "none", "--name", "one", "busybox", "sleep", "600")
    costs = []
    for name, wanted in (("plain", None), ("checked", check("CMD", "true", Interval=500 * S))):
        before = settled()
        for n in range(many):
            run(engine, f"{name}{n}", wanted)
        after = settled()
        costs.append({key: after[key] - before[key] for key in before})
    # One task or descriptor for each that waits would be as many as there are.
    assert all(costs[1][key] - costs[0][key] < many // 2 for key in costs[0]), costs


def test_ended_probes_do_not_fill_the_memory(engine):
    run(engine, "box", check("CMD", "true", Interval=20 * MS))
    first = wait_for(lambda: [e for e in events(engine, "box") if e["Action"] == "exec_die"], "a probe ends")[0]
    if os.environ.get("GANTRY_TEST_HOST"):
        pytest.skip("dockerd keeps them for some minutes")
    eid = first["Actor"]["Attributes"]["execID"]
    wait_for(lambda: engine.http("GET", f"/v1.48/exec/{eid}/json")[0] == 404, "an old probe is forgotten")


# --- pauses and execs ----------------------------------------------------------------------------

@pytest.mark.gantry  # dockerd's runtime now and then fails to freeze what is being started
def test_pauses_wait_for_execs_in_flight(engine):
    """Whatever meets a pause: it either runs, or is refused as Docker does. Nothing hangs, nothing is half started."""
    engine.ok("run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "600")
    refused = "is paused, unpause the container before exec"

    def one(_):
        status, doc = engine.json("POST", "/v1.48/containers/box/exec", {"Cmd": ["true"]})
        if status == 201:
            status, _, data = engine.http("POST", f"/v1.48/exec/{doc['Id']}/start", {"Detach": True})
            doc = json.loads(data) if data.strip() else {}
        assert status in (200, 409), doc
        assert status == 200 or refused in doc["message"], doc
        return status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        told = pool.map(one, range(120))
        for _ in range(12):
            engine.ok("pause", "box")
            starting = [e for e in inspect(engine, "box")["ExecIDs"] or []
                        if (doc := engine.json("GET", f"/v1.48/exec/{e}/json")[1]).get("Running") and doc["Pid"] == 0]
            assert starting == [], "an exec is frozen while it is started"
            engine.ok("unpause", "box")
        assert set(told) <= {200, 409}
    engine.ok("exec", "box", "true")
    created = inspect(engine, "box")["ExecIDs"] or []
    wait_for(lambda: not any(engine.json("GET", f"/v1.48/exec/{e}/json")[1].get("Running") for e in created),
             "every exec ends")


# --- the daemon's end ----------------------------------------------------------------------------

@pytest.mark.gantry
@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_a_new_daemon_begins_anew_with_what_runs(private_daemon, how):
    """As dockerd with --live-restore."""
    eng = private_daemon
    run(eng, "runs", check("CMD", "true", Interval=1500 * MS))
    run(eng, "ended", shell("exit 2", Retries=1))
    run(eng, "stuck", shell("sleep 600; true", Timeout=600 * S))
    run(eng, "frozen", check("CMD", "true"))
    until(eng, "runs", "healthy")
    until(eng, "frozen", "healthy")
    until(eng, "ended", "unhealthy")
    eng.ok("stop", "-t", "0", "ended")
    eng.ok("pause", "frozen")
    ended, frozen = health(eng, "ended"), health(eng, "frozen")

    def probes():
        processes = eng.json("GET", "/v1.48/containers/stuck/top")[1]["Processes"]
        return {p[1] for p in processes if p[-1].startswith("/bin/sh -c sleep 600")}
    before = wait_for(probes, "a probe hangs")
    getattr(eng, how)()
    eng.start()
    assert health(eng, "ended") == ended and ended["Log"], "what ended keeps its results"
    assert health(eng, "frozen") == frozen
    wait_for(lambda: before.isdisjoint(probes()), "the probe of the earlier daemon is ended")
    until(eng, "runs", "healthy")
    assert [e["Action"] for e in events(eng, "runs") if "health" in e["Action"]] == ["health_status: healthy"]
    wait_for(lambda: len(probes()) == 1, "the next one runs")
    eng.ok("unpause", "frozen")
    until(eng, "frozen", "healthy")


@pytest.mark.gantry
def test_probing_goes_on_whatever_is_killed(private_daemon):
    eng, boxes = private_daemon, [f"box{n}" for n in range(12 if FULL else 4)]
    for box in boxes:
        run(eng, box, shell("sleep 0.2; exit 0", Interval=100 * MS, Timeout=60 * S, Retries=1000))
    for killed in ("keepers", "daemon", "both") * (4 if FULL else 1):
        for box in boxes:
            until(eng, box, "healthy")
        if killed != "daemon":
            for pid, name in leaks.engine_processes(eng).items():
                if "keeper" in name:
                    os.kill(pid, signal.SIGKILL)
        if killed != "keepers":
            eng.kill9()
            eng.start()
        after = time.time()
        for box in boxes:
            wait_for(lambda: any(moment(r["Start"]) > after and r["ExitCode"] == 0 for r in health(eng, box)["Log"]),
                     f"{box} is probed after {killed} died")
    for box in boxes:
        assert inspect(eng, box)["State"]["Status"] == "running" and len(inspect(eng, box)["ExecIDs"] or []) <= 1


def test_many_containers(engine):
    """The probes of containers with the same interval are not all at once, and none is forgotten."""
    count = 24
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: run(engine, f"many{n}", check("CMD", "true", Interval=S)), range(count)))
        list(pool.map(lambda n: wait_for(lambda: len(health(engine, f"many{n}")["Log"]) >= 2, "probes"), range(count)))
    assert names(engine, "healthy") == {f"many{n}" for n in range(count)}
