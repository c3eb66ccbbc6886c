"""What was answered is in the record, whatever else is written to the record at that moment."""
import os
import signal
import threading
import time

COUNT = 40


def at_once(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_change_beside_an_exit_is_not_lost(private_daemon):
    engine = private_daemon
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    ids = [engine.json("POST", f"/v1.48/containers/create?name=old{n}", body)[1]["Id"] for n in range(COUNT)]
    answers = {}

    def change(n, path, body=None):
        answers[n] = engine.json("POST", f"/v1.48/containers/{ids[n]}/{path}", body)[0]

    for n, id_ in enumerate(ids):
        assert engine.json("POST", f"/v1.48/containers/{id_}/start")[0] == 204
    for n, id_ in enumerate(ids):
        what = (f"rename?name=new{n}", None) if n % 2 else ("update", {"CpuShares": 2 + n})
        at_once(lambda: engine.json("POST", f"/v1.48/containers/{id_}/kill"), lambda: change(n, *what))
    engine.kill9()
    engine.start()
    for n, id_ in enumerate(ids):
        seen = engine.inspect(id_)
        assert (seen["State"]["Status"], seen["State"]["ExitCode"]) == ("exited", 137)
        if n % 2:
            assert answers[n] == 204 and seen["Name"] == f"/new{n}"
        elif answers[n] == 200:
            assert seen["HostConfig"]["CpuShares"] == 2 + n


def test_a_stop_beside_an_exit_is_a_stop(private_daemon):
    """Whatever the policy was about to do: what was stopped does not run again."""
    engine = private_daemon
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"],
            "HostConfig": {"NetworkMode": "none", "RestartPolicy": {"Name": "always"}}}
    ids = [engine.json("POST", "/v1.48/containers/create", body)[1]["Id"] for _ in range(COUNT)]
    for n, id_ in enumerate(ids):
        assert engine.json("POST", f"/v1.48/containers/{id_}/start")[0] == 204
        os.kill(engine.inspect(id_)["State"]["Pid"], signal.SIGKILL)
        time.sleep(n % 8 / 1000)
        assert engine.json("POST", f"/v1.48/containers/{id_}/stop?t=0")[0] in (204, 304)
    time.sleep(0.5)
    states = [engine.inspect(id_)["State"]["Status"] for id_ in ids]
    assert states == ["exited"] * COUNT
