"""The container endpoints over plain HTTP: request shapes, refusals and their words, answers field by field."""
import json
import threading
import time
import urllib.parse

import pytest

from engine import wait_for

NONE = {"NetworkMode": "none"}


def create(engine, name, status=201, query="", version="/v1.48", **config):
    config = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": NONE} | config
    got, doc = engine.json("POST", f"{version}/containers/create?name={name}{query}", config)
    assert got == status, doc
    return doc


def post(engine, path):
    return engine.json("POST", f"/v1.48/containers/{path}")


def inspect(engine, name):
    status, doc = engine.json("GET", f"/v1.48/containers/{name}/json")
    assert status == 200, doc
    return doc


def names(engine, query="all=1", **filters):
    text = urllib.parse.quote(json.dumps(filters))
    status, doc = engine.json("GET", f"/v1.48/containers/json?{query}&filters={text}")
    return [row["Names"][0][1:] for row in doc] if status == 200 else (status, doc["message"])


def test_keys_have_any_case_and_null_is_absent(engine):
    config = {"image": "busybox", "CMD": ["true"], "nosuch": 1, "Env": None, "Labels": {"a": None},
              "hostconfig": {"networkmode": "none", "MEMORY": 16 << 20}}
    status, doc = engine.json("POST", "/v1.48/containers/create?name=anycase", config)
    assert (status, doc["Warnings"]) == (201, [])
    box = inspect(engine, "anycase")
    assert box["Config"]["Labels"] == {"a": ""} and box["Config"]["Cmd"] == ["true"]
    assert box["HostConfig"]["NetworkMode"] == "none" and box["HostConfig"]["Memory"] == 16 << 20
    create(engine, "onestring", Cmd="true", Entrypoint="")
    assert inspect(engine, "onestring")["Config"]["Cmd"] == ["true"]


@pytest.mark.parametrize("body, message", [
    (b'{"Image":"busybox",}', "looking for beginning of object key string"),
    (b'{"Image":busybox}', "invalid character 'b' looking for beginning of value"),
    (b'{"Image" "busybox"}', "after object key"),
    (b'{"Image":"busybox"}{}', "unexpected content after JSON"),
    (b'[]', "cannot unmarshal array into Go value of type container.CreateRequest"),
    (b'{"Image":3}', "cannot unmarshal number into Go struct field"),
    (b'{"Image":"busybox","HostConfig":{"Memory":"1g"}}', "of type int64"),
    (b'{"Image":"busybox","HostConfig":[]}', "cannot unmarshal array into Go struct field"),
    (b'{"Image":"busybox","ExposedPorts":{"80/tcp":3}}', "of type struct {}"),
    (b'{"Foo":1}', "config cannot be empty in order to create a container"),
])
def test_bad_bodies_say_what_go_says(session_engine, body, message):
    status, _, answer = session_engine.http("POST", "/v1.48/containers/create", body,
                                            {"Content-Type": "application/json"})
    assert status == 400 and message in json.loads(answer)["message"], answer


@pytest.mark.parametrize("config, message", [
    ({"HostConfig": {"RestartPolicy": {"Name": "", "MaximumRetryCount": -1}}},
     "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative"),
    ({"HostConfig": {"NetworkMode": "container:"}}, "invalid network mode: invalid container format container:<name|id>"),
    ({"HostConfig": {"Isolation": "hyperv"}}, "invalid isolation (hyperv): linux only supports 'default'"),
    ({"HostConfig": {"CapAdd": ["foo"]}}, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ({"HostConfig": {"CapDrop": ["foo"]}}, 'invalid CapDrop: unknown capability: "CAP_FOO"'),
    ({"HostConfig": {"CpusetCpus": "x"}}, "Invalid value x for cpuset cpus: invalid format: x"),
    ({"HostConfig": {"IOMaximumIOps": 1}}, "invalid option: QoS maximum IOPs configuration is not supported on linux"),
    ({"HostConfig": {"ExtraHosts": ["a:b"]}}, 'invalid IP address in add-host: "b"'),
    ({"HostConfig": {"ExtraHosts": ["a"]}}, 'bad format for add-host: "a"'),
    ({"HostConfig": {"Tmpfs": {"/": ""}}}, "invalid specification: destination can't be '/'"),
    ({"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"mode": "foo"}}}},
     "logger: logging mode not supported: foo"),
    ({"HostConfig": {"Annotations": {"": "x"}}},
     "invalid Annotations: the empty string is not permitted as an annotation key"),
    ({"NetworkingConfig": {"EndpointsConfig": {"none": None}}},
     "invalid config for network none: EndpointsConfig is nil"),
])
def test_refused_at_create(session_engine, config, message):
    status, doc = session_engine.json("POST", "/v1.48/containers/create", {"Image": "busybox"} | config)
    assert (status, doc["message"]) == (400, message)


def test_what_can_not_be_followed_is_a_warning(engine):
    doc = create(engine, "warned", HostConfig=NONE | {"OomKillDisable": True, "CpuPercent": 3})
    assert "linux does not support CPU percent. Percent discarded." in doc["Warnings"]
    assert any("OOM killer is disabled" in w or "OomKillDisable" in w for w in doc["Warnings"])


def test_platforms(engine):
    create(engine, "fits", query="&platform=linux/amd64")
    doc = create(engine, "arm", status=404, query="&platform=linux/arm64")
    assert doc["message"] == ("image with reference busybox was found but its platform (linux/amd64) does not match the "
                              "specified platform (linux/arm64)")
    create(engine, "nonsense", status=400, query="&platform=foo")


def test_older_versions_mean_less(engine):
    host = NONE | {"AutoRemove": True, "ConsoleSize": [3, 4], "Annotations": {"a": "b"}}
    create(engine, "v24", version="/v1.24", HostConfig=host)
    create(engine, "v48", HostConfig=host)
    old, new = inspect(engine, "v24")["HostConfig"], inspect(engine, "v48")["HostConfig"]
    assert (old["AutoRemove"], old["ConsoleSize"], "Annotations" in old) == (False, [0, 0], False)
    assert (new["AutoRemove"], new["ConsoleSize"], new["Annotations"]) == (True, [3, 4], {"a": "b"})


def test_filters_of_the_list(engine):
    create(engine, "web", Labels={"app": "web"})
    create(engine, "job", Cmd=["sh", "-c", "exit 3"])
    create(engine, "made")
    for name in ("web", "job"):
        post(engine, f"{name}/start")
    post(engine, "job/wait")
    wait_for(lambda: names(engine, "") == ["web"], "the end of the job is seen")
    assert names(engine) == ["made", "job", "web"]
    # Only a status asks for containers that do not run.
    assert names(engine, "", status=["exited"]) == ["job"]
    assert names(engine, "", exited=["3"]) == [] and names(engine, exited=["3"]) == ["job"]
    assert names(engine, "", since=["web"]) == [] and names(engine, since=["web"]) == ["made", "job"]
    cid = inspect(engine, "web")["Id"]
    assert names(engine, id=[cid[:10]]) == ["web"] and names(engine, id=[cid[5:15]]) == []
    assert names(engine, name=["("]) == [] and names(engine, name=["^/we"]) == ["web"]
    assert names(engine, label={"app": False}) == ["web"]  # as old clients write it; only the key counts
    assert names(engine, "limit=1") == ["made"]
    for bad, message in [
        ({"status": ["foo"]}, "invalid filter 'status=foo': invalid value for state (foo): must be one of created, "
                              "running, paused, restarting, removing, exited, dead"),
        ({"health": ["foo"]}, "invalid filter 'health=foo': invalid value for health (foo): must be one of none, "
                              "starting, healthy, unhealthy"),
        ({"exited": ["x"]}, "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
        ({"is-task": ["x"]}, "invalid filter 'is-task=[x]'"),
        ({"label!": ["x"]}, "invalid filter 'label!'"),
    ]:
        assert names(engine, **bad) == (400, message)


def test_exposed_ports_are_shown_on_a_network(engine):
    ports = {"80/tcp": {}, "53/udp": {}}
    create(engine, "bridged", ExposedPorts=ports, HostConfig={})
    create(engine, "alone", ExposedPorts=ports)
    assert inspect(engine, "bridged")["NetworkSettings"]["Ports"] == {}
    for name in ("bridged", "alone"):
        post(engine, f"{name}/start")
    assert inspect(engine, "bridged")["NetworkSettings"]["Ports"] == {"80/tcp": None, "53/udp": None}
    assert inspect(engine, "alone")["NetworkSettings"]["Ports"] == {}
    _, rows = engine.json("GET", "/v1.48/containers/json")
    listed = {r["Names"][0]: sorted((p["PrivatePort"], p["Type"]) for p in r["Ports"]) for r in rows}
    assert listed == {"/bridged": [(53, "udp"), (80, "tcp")], "/alone": []}
    assert names(engine, expose=["80"]) == ["bridged"] and names(engine, expose=["54/udp"]) == []


def test_commands_are_shown_as_docker_shows_them(engine):
    create(engine, "quoting", Entrypoint=["/bin/x y"], Cmd=["sh", "-c", "a 'b'", "it's"])
    _, rows = engine.json("GET", "/v1.48/containers/json?all=1")
    assert rows[0]["Command"] == "/bin/x y sh -c 'a 'b'' it's"


def test_words_of_refusals(engine):
    create(engine, "aa")
    create(engine, "bb")
    cid = inspect(engine, "bb")["Id"]

    def message(answer):
        return answer[1]["message"]
    assert message(post(engine, "nosuch/kill")) == "cannot kill container: nosuch: No such container: nosuch"
    assert message(post(engine, "aa/rename?name=b%20c")).startswith(
        "Error when allocating new name: Invalid container name (/b c), only ")
    assert message(post(engine, "aa/rename?name=bb")).startswith(
        f'Error when allocating new name: Conflict. The container name "/bb" is already in use by container "{cid}".')
    assert post(engine, "aa/stop?signal=FOO")[0] == 304  # it does not run: no signal is needed
    post(engine, "aa/start")
    cid = inspect(engine, "aa")["Id"]
    for signal, reason in [("FOO", "invalid signal: FOO"), ("32", "the linux daemon does not support signal 32"),
                           ("65", "the linux daemon does not support signal 65"), ("0", "invalid signal: 0")]:
        assert post(engine, f"aa/kill?signal={signal}") == (
            400, {"message": f"cannot kill container: aa: {reason}"})
    assert message(post(engine, f"{cid[:12]}/stop?signal=FOO")) == (
        f"cannot stop container: {cid[:12]}: invalid signal: FOO")
    assert engine.json("DELETE", "/v1.48/containers/aa") == (
        409, {"message": 'cannot remove container "aa": container is running: stop the container before removing or '
                         'force remove'})
    status, doc = engine.json("POST", "/v1.48/containers/aa/start", {"Binds": []})
    assert status == 400 and doc["message"].startswith("starting container with non-empty request body was deprecated")
    assert post(engine, "aa/resize?h=-1&w=5") == (
        400, {"message": 'invalid resize height "-1": value out of range'})
    assert post(engine, "aa/unpause")[0] == 500


def test_a_restart_remembers_when_the_last_run_ended(engine):
    create(engine, "again")
    post(engine, "again/start")
    assert inspect(engine, "again")["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    post(engine, "again/restart?t=0")
    state = inspect(engine, "again")["State"]
    assert state["Running"] and "0001-01-01" < state["FinishedAt"] <= state["StartedAt"]


def test_restarts_are_counted_when_they_are_decided(engine):
    create(engine, "fails", Cmd=["sh", "-c", "exit 2"],
           HostConfig=NONE | {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}})
    post(engine, "fails/start")
    seen = set()

    def ended():
        box = inspect(engine, "fails")
        state = box["State"]
        seen.add((state["Status"], state["Running"], state["Restarting"], box["RestartCount"]))
        return state["Status"] == "exited"
    wait_for(ended, "the policy gives up", step_s=0.002)
    assert seen <= {("running", True, False, 0), ("restarting", True, True, 1), ("running", True, False, 1),
                    ("restarting", True, True, 2), ("running", True, False, 2), ("exited", False, False, 2)}
    assert ("restarting", True, True, 1) in seen and ("exited", False, False, 2) in seen


def test_a_joined_network_is_that_of_the_container_not_of_the_name(engine):
    create(engine, "owner")
    owner = inspect(engine, "owner")["Id"]
    create(engine, "guest", HostConfig={"NetworkMode": "container:owner"})
    assert inspect(engine, "guest")["HostConfig"]["NetworkMode"] == f"container:{owner}"
    assert post(engine, "guest/start") == (
        409, {"message": "cannot join network namespace of a non running container: container owner is created"})
    post(engine, "owner/rename?name=other")
    post(engine, "other/start")
    assert post(engine, "guest/start")[0] == 204


def test_prune_removes_what_does_not_run_and_says_so(engine):
    since = engine.json("GET", "/info")[1]["SystemTime"]
    create(engine, "gone", Labels={"a": "b"})
    create(engine, "kept")
    create(engine, "runs", Labels={"a": "b"})
    post(engine, "runs/start")
    gone = inspect(engine, "gone")["Id"]
    wanted = urllib.parse.quote('{"label":["a=b"]}')
    status, doc = post(engine, f"prune?filters={wanted}")
    assert (status, doc["ContainersDeleted"], doc["SpaceReclaimed"]) == (200, [gone], 0)
    assert names(engine) == ["runs", "kept"]
    wanted = urllib.parse.quote('{"until":["1h"]}')
    assert post(engine, f"prune?filters={wanted}")[1]["ContainersDeleted"] is None
    for bad, message in [('{"foo":["x"]}', "invalid filter 'foo'"),
                         ('{"until":["x"]}', 'failed to parse value as time or duration: "x"'),
                         ('{"until":["1h","2h"]}', "more than one until filter specified")]:
        assert post(engine, f"prune?filters={urllib.parse.quote(bad)}") == (400, {"message": message})
    until = engine.json("GET", "/info")[1]["SystemTime"]
    events = engine.ok("events", "--since", since, "--until", until, "--filter", "event=prune", "--format", "json")
    assert [json.loads(e)["Actor"]["Attributes"]["reclaimed"] for e in events.splitlines()][:1] == ["0"]


def test_what_is_not_there_can_be_pruned_and_inspected(engine):
    done = engine.cli("inspect", "nosuch")
    assert (done.returncode, done.stdout.strip()) == (1, "[]") and "No such object: nosuch" in done.stderr
    for kind in ("networks", "volumes", "build"):
        status, doc = engine.json("POST", f"/v1.48/{kind}/prune?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D")
        assert status == 400 and "invalid filter 'foo'" in doc["message"]
        engine.json("POST", f"/v1.48/{kind}/prune")  # an engine that is not ours may have something
        status, doc = engine.json("POST", f"/v1.48/{kind}/prune")
        assert status == 200 and not any(doc.values())


def test_an_unknown_network_is_missed_at_the_start(engine):
    done = engine.cli("run", "--name", "lonely", "--network", "nosuch", "busybox", "true")
    assert done.returncode == 125 and "Unable to find image" not in done.stderr
    assert "failed to set up container networking: network nosuch not found" in done.stderr
    box = inspect(engine, "lonely")
    assert box["State"]["Status"] == "created" and box["State"]["ExitCode"] == 128
    assert box["HostConfig"]["NetworkMode"] == "nosuch" and list(box["NetworkSettings"]["Networks"]) == ["nosuch"]


def test_filters_of_events(engine):
    since = engine.json("GET", "/info")[1]["SystemTime"]
    for name in ("eva", "evb"):
        create(engine, name, Labels={"k": name})

    def seen(**filters):
        until = engine.json("GET", "/info")[1]["SystemTime"]
        text = engine.ok("events", "--since", since, "--until", until, "--format", "{{.Actor.Attributes.name}}",
                         *[a for k, v in filters.items() for a in ("--filter", f"{k}={v}")])
        return text.split()
    assert seen(event="create") == ["eva", "evb"] and seen(event="create", container="eva") == ["eva"]
    assert seen(event="create", container="ev") == ["eva", "evb"]  # a prefix is enough
    assert seen(event="create", label="k=evb") == ["evb"] and seen(event="create", image="busybox") == ["eva", "evb"]
    assert seen(event="create", nosuch="x") == ["eva", "evb"]
    assert seen(type="image", label="k=evb") == []
    status, doc = engine.json("GET", "/v1.48/events?since=20&until=10")
    assert (status, doc["message"]) == (400, "`since` time (20) cannot be after `until` time (10)")


def test_events_of_a_whole_life(engine):
    since = engine.json("GET", "/info")[1]["SystemTime"]
    create(engine, "life", Cmd=["sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"], Tty=True)
    post(engine, "life/start")
    wait_for(lambda: "up" in engine.ok("logs", "life"), "its trap is set")
    for step in ("resize?h=10&w=20", "pause", "unpause", "rename?name=death", "../death/kill?signal=WINCH"):
        name = "death" if step.startswith("..") else "life"
        post(engine, step.removeprefix("../") if name == "death" else f"life/{step}")
    post(engine, "death/restart?t=9")
    post(engine, "death/stop?t=0")
    engine.json("DELETE", "/v1.48/containers/death")
    until = engine.json("GET", "/info")[1]["SystemTime"]
    text = engine.ok("events", "--since", since, "--until", until, "--filter", "type=container", "--format", "json")
    events = [json.loads(line) for line in text.splitlines()]
    assert [e["Action"] for e in events] == (
        "create start resize pause unpause rename kill kill stop die start restart kill kill stop die destroy").split()
    told = {e["Action"]: e["Actor"]["Attributes"] for e in events}
    assert told["rename"]["oldName"] == "/life" and told["rename"]["name"] == "death"
    assert (told["resize"]["height"], told["resize"]["width"]) == ("10", "20")
    assert [e["Actor"]["Attributes"]["signal"] for e in events if e["Action"] == "kill"] == ["28", "15", "15", "9"]
    assert [e["Actor"]["Attributes"]["exitCode"] for e in events if e["Action"] == "die"] == ["3", "137"]


def test_many_clients_on_few_containers(engine):
    """Creates, starts, stops, kills, restarts, pauses and removals at once: no failure of the engine, and no wrong state."""
    end = time.monotonic() + 6
    failures = []

    def client(seed):
        turn = seed
        while time.monotonic() < end:
            turn = (turn * 1103515245 + 12345) % (1 << 31)
            name = f"busy{turn // 7 % 3}"
            what = ["create", "create", "start", "start", "stop?t=0", "kill", "restart?t=0", "pause", "kill?signal=TERM",
                    "rm", "json"][turn // 65536 % 11]
            if what == "create":
                program = [["sleep", "60"], ["true"], ["sh", "-c", "exit 3"]][turn // 11 % 3]
                status, doc = engine.json("POST", f"/containers/create?name={name}", {
                    "Image": "busybox", "Cmd": program, "HostConfig": NONE | {"AutoRemove": turn % 3 == 0}})
            elif what == "rm":
                status, doc = engine.json("DELETE", f"/containers/{name}?force=1")
            elif what == "json":
                status, doc = engine.json("GET", f"/containers/{name}/json")
                if status == 200 and doc["State"]["Running"] != (doc["State"]["Pid"] > 0):
                    failures.append(doc["State"])
            else:
                status, doc = post(engine, f"{name}/{what}")
            if status >= 500:
                failures.append((what, status, doc))
    clients = [threading.Thread(target=client, args=(n * 7919 + 1,)) for n in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    if not engine.external:  # dockerd itself answers some of these races with a 500
        assert not failures
    engine.remove_all()
    wait_for(lambda: names(engine) == [], "all are gone")
