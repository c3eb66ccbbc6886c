"""Lives without a client, on control groups of version 2: kills for lack of memory, health checks, pauses."""
import subprocess
import time

from engine import wait_for

LITTLE = ["--memory", "24m", "--memory-swap", "24m"]
EATS = ["dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1"]


def state(engine, name):
    return engine.inspect(name)["State"]


def test_kills_for_lack_of_memory_are_told_while_the_container_runs(engine):
    engine.ok("run", "-d", "--network", "none", "--name", "box", *LITTLE, "busybox", "sleep", "600")
    told = engine.popen("events", "--filter", "container=box", "--filter", "event=oom", "--format", "{{.Action}}",
                        stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: engine.json("GET", "/info")[1]["NEventsListener"] == 1, "the events are listened to")
        for _ in range(2):
            assert engine.cli("exec", "box", *EATS).returncode == 137
            assert told.stdout.readline() == "oom\n"
            assert state(engine, "box")["OOMKilled"] and state(engine, "box")["Status"] == "running"
    finally:
        told.kill()
        told.wait()


def test_health_over_a_pause(engine):
    engine.ok("run", "-d", "--network", "none", "--name", "box", "--health-cmd", "true", "--health-interval", "500ms",
              "busybox", "sleep", "600")
    wait_for(lambda: state(engine, "box")["Health"]["Status"] == "healthy", "it is healthy")
    engine.ok("pause", "box")
    paused = state(engine, "box")["Health"]
    assert paused["Status"] == "unhealthy"
    time.sleep(1)
    assert state(engine, "box")["Health"] == paused
    engine.ok("unpause", "box")
    wait_for(lambda: state(engine, "box")["Health"]["Status"] == "healthy", "it is healthy again")


def test_a_stuck_probe_is_killed(engine):
    engine.ok("run", "-d", "--network", "none", "--name", "box", "--health-cmd", "sleep 600; true",
              "--health-interval", "500ms", "--health-timeout", "1s", "--health-retries", "2", "busybox", "sleep", "600")
    wait_for(lambda: state(engine, "box")["Health"]["FailingStreak"] >= 4, "it fails")
    assert state(engine, "box")["Health"]["Status"] == "unhealthy"
    processes = engine.json("GET", "/v1.48/containers/box/top")[1]["Processes"]
    assert sum("sleep 600" in p[-1] for p in processes) <= 3, processes
