"""docker-py, the Python client, against the engine."""
import pytest

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


def test_images_version_info(client):
    assert "busybox:latest" in [t for i in client.images.list() for t in i.tags]
    image = client.images.get("busybox")
    assert image.tag("py-tag", "x") and image.history()
    client.images.remove("py-tag:x")
    assert client.version()["MinAPIVersion"] == "1.24" and client.info()["OSType"] == "linux"
    assert client.ping()
    assert {n.name for n in client.networks.list()} >= {"bridge", "host", "none"}
    assert client.volumes.list() == []
