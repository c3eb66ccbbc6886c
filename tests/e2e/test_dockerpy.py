"""docker-py, the Python client, against the engine."""
import pytest

from engine import wait_for

docker = pytest.importorskip("docker")


@pytest.fixture
def client(engine):
    client = docker.DockerClient(base_url=engine.host, timeout=120)
    yield client
    client.close()


def test_run_and_errors(client):
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert failed.value.exit_status == 3 and failed.value.stderr == b"bad\n"
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nosuch")


def test_life(client):
    box = client.containers.run("busybox", ["sh", "-c", "echo a; read x; echo $x"], detach=True, name="py",
                                stdin_open=True, labels={"k": "v"})
    assert [c.name for c in client.containers.list(filters={"label": "k=v"})] == ["py"]
    sock = box.attach_socket(params={"stdin": 1, "stream": 1})
    sock._sock.sendall(b"b\n")
    sock._sock.close()
    sock.close()
    assert box.wait()["StatusCode"] == 0
    assert box.logs() == b"a\nb\n"
    assert list(box.logs(stream=True, follow=True)) and box.logs(tail=1) == b"b\n"
    box.reload()
    assert box.status == "exited" and box.attrs["State"]["ExitCode"] == 0
    box.remove()


def test_every_step_of_a_life(client):
    box = client.containers.create("busybox", ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"],
                                   name="steps", network_mode="none", labels={"z": "1"})
    assert (box.status, box.name, box.labels) == ("created", "steps", {"z": "1"}) and "busybox:latest" in box.image.tags
    box.start()
    assert next(box.logs(stream=True, follow=True)) == b"up\n"
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename("stepped")
    box.reload()
    assert (box.status, box.name) == ("running", "stepped")
    with pytest.raises(docker.errors.APIError) as refused:
        box.remove()
    assert refused.value.response.status_code == 409 and "container is running" in refused.value.explanation
    box.stop(timeout=30)
    assert box.wait()["StatusCode"] == 5
    box.restart(timeout=0)
    wait_for(lambda: box.logs().count(b"up") == 2, "its trap is set again")  # the first process ignores other signals
    box.kill(signal="SIGTERM")
    assert box.wait(timeout=60)["StatusCode"] == 5
    box.remove(v=True)
    with pytest.raises(docker.errors.NotFound):
        box.reload()


def test_lists_and_events(client):
    boxes = [client.containers.run("busybox", ["sleep", "600"], detach=True, network_mode="none", name=f"box{n}",
                                   labels={"odd": str(n % 2)}) for n in range(4)]
    boxes[0].stop(timeout=0)

    def names(**kw):
        return [c.name for c in client.containers.list(**kw)]
    assert names() == ["box3", "box2", "box1"] and names(limit=2) == ["box3", "box2"]
    assert names(all=True) == ["box3", "box2", "box1", "box0"]
    assert [c.id for c in client.containers.list(all=True, sparse=True)] == [b.id for b in reversed(boxes)]
    assert names(filters={"since": "box1"}) == ["box3", "box2"]
    assert names(filters={"before": "box2"}, all=True) == ["box1", "box0"]
    assert names(filters={"label": ["odd=1"]}) == ["box3", "box1"] and names(filters={"status": "exited"}) == ["box0"]
    assert names(filters={"exited": 137}, all=True) == ["box0"]
    events = client.events(decode=True, filters={"container": "box0"})
    assert client.containers.prune()["ContainersDeleted"] == [boxes[0].id]
    assert next(events)["Action"] == "destroy"
    events.close()


@pytest.mark.parametrize("wish, shown", [
    ({"mem_limit": "64m"}, {"Memory": 64 << 20, "MemorySwap": 128 << 20}), ({"nano_cpus": 10**9}, {"NanoCpus": 10**9}),
    ({"pids_limit": 9}, {"PidsLimit": 9}), ({"cap_add": ["NET_ADMIN"]}, {"CapAdd": ["NET_ADMIN"]}),
    ({"restart_policy": {"Name": "on-failure", "MaximumRetryCount": 3}},
     {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    ({"extra_hosts": {"a": "1.2.3.4"}}, {"ExtraHosts": ["a:1.2.3.4"]}), ({"shm_size": "10m"}, {"ShmSize": 10 << 20}),
    ({"privileged": True}, {"Privileged": True, "SecurityOpt": ["label=disable"], "MaskedPaths": None}),
    ({"links": {}, "mounts": [], "volumes": {}, "ports": {}}, {"Links": None, "Binds": None}),
])
def test_wishes_are_shown(client, wish, shown):
    box = client.containers.create("busybox", ["true"], network_mode="none", **wish)
    host = box.attrs["HostConfig"]
    assert {k: host[k] for k in shown} == shown


def test_images_version_info(client):
    assert "busybox:latest" in [t for i in client.images.list() for t in i.tags]
    image = client.images.get("busybox")
    assert image.tag("py-tag", "x") and image.history()
    client.images.remove("py-tag:x")
    assert client.version()["MinAPIVersion"] == "1.24" and client.info()["OSType"] == "linux"
    assert client.ping()
    assert {n.name for n in client.networks.list()} >= {"bridge", "host", "none"}
    assert client.volumes.list() == []
