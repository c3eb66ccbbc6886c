"""An engine in a container of this engine, with its data root on a volume: what is called Docker in Docker.

The inner engine has the control groups as a privileged container has them: each hierarchy is mounted at the
container's own group, so that everything it makes lies below.
"""
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import time

import mkimage
import pytest

import leaks
from engine import External, gantryd_binary, wait_for

pytestmark = pytest.mark.gantry
MIB = 1 << 20
V1 = os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def libraries(program):
    """The files that the dynamic loader needs for a program, by their paths."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", out)


def stripped(program, workdir):
    """A copy without what only debuggers read; as it is where there is no strip."""
    copy = workdir / pathlib.Path(program).name
    if not shutil.which("strip") or subprocess.run(["strip", "-o", copy, program], capture_output=True).returncode:
        shutil.copy(program, copy)
    return copy.read_bytes()


@pytest.fixture(scope="module")
def engine_image(workdir, base_layer, session_engine):
    """An image with the engine under test, its keeper and their libraries."""
    gantryd = gantryd_binary()
    keeper = str(pathlib.Path(gantryd).with_name("gantry-keeper"))
    members = [mkimage.entry(f"usr/bin/{pathlib.Path(p).name}", mode=0o755, data=stripped(p, workdir))
               for p in (gantryd, keeper)]
    members += [mkimage.entry(d, tarfile.DIRTYPE, 0o755) for d in ("run", "var/lib")]
    for path in sorted({*libraries(gantryd), *libraries(keeper)}):
        data = pathlib.Path(path).resolve().read_bytes()
        members.append(mkimage.entry(path.lstrip("/"), mode=0o755, data=data))
    tar = workdir / "engine.tar"
    tar.write_bytes(mkimage.docker_archive("engine:latest", [base_layer, mkimage.tar_bytes(members)]))
    session_engine.ok("load", "-i", str(tar))
    yield "engine"
    session_engine.ok("rmi", "engine")


class Inner(External):
    """The engine in the container `outer` of another one."""

    def __init__(self, host_dir, outer_engine, outer):
        super().__init__(f"unix://{host_dir}/d.sock", host_dir)
        self.outer_engine, self.outer = outer_engine, outer

    def check_process(self):
        state = self.outer_engine.inspect(self.outer)["State"]
        assert state["Running"], (state, self.outer_engine.cli("logs", self.outer))


# The engine comes back when it dies, the container's first process is another one.
PROGRAM = """trap 'kill $!; wait $!; exit' TERM
while :; do gantryd -H unix:///host/d.sock --data-root /var/lib/gantry --exec-root /run/gantry & wait $!; done"""


@pytest.fixture(params=["host", "private"])
def nested(request, engine, engine_image, workdir, image_tar):
    """A running inner engine with an image, in the host's cgroup namespace or one of its own."""
    host_dir = workdir / "nest"
    host_dir.mkdir()
    outer = engine.ok("run", "-d", "--name", "outer", "--privileged", "--network", "none", "--init",
                      "--cgroupns", request.param, "-v", "nested-data:/var/lib/gantry", "-v", f"{host_dir}:/host",
                      "--tmpfs", "/run:exec", engine_image, "sh", "-c", PROGRAM)
    inner = Inner(host_dir, engine, outer)
    inner.start()
    inner.ok("load", "-i", str(image_tar))
    yield inner
    engine.cli("rm", "-f", outer)
    engine.ok("volume", "rm", "nested-data")
    shutil.rmtree(host_dir)


def groups_below(id):
    return [base for base, _, _ in os.walk("/sys/fs/cgroup") if f"/{id}/" in base]


def test_run_exec_logs_stop(nested):
    assert nested.ok("run", "--rm", "--network", "none", "busybox", "echo", "hello") == "hello"
    id = nested.ok("run", "-d", "--network", "none", "busybox", "sh", "-c",
                   "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.05; done")
    wait_for(lambda: nested.ok("logs", id) == "begun", "output of an inner container")
    assert nested.ok("exec", id, "sh", "-c", "cat /proc/1/comm; hostname").split() == ["sh", id[:12]]
    nested.ok("pause", id)
    assert nested.inspect(id)["State"]["Status"] == "paused"
    nested.ok("unpause", id)
    nested.ok("stop", id)
    assert nested.inspect(id)["State"]["ExitCode"] == 7
    assert nested.ok("logs", id).split() == ["begun", "bye"]
    done = nested.cli("run", "--rm", "--network", "none", "busybox", "nothere")
    assert done.returncode == 127


def test_limits(nested):
    id = nested.ok("run", "-d", "--network", "none", "--memory", "32m", "--pids-limit", "20", "--cpu-shares", "300",
                   "--cpuset-cpus", "0", "busybox", "sleep", "600")
    inner = {"memory": ("memory.limit_in_bytes", "memory.max", str(32 * MIB)), "pids": ("pids.max", "pids.max", "20")}
    for controller, (v1, v2, value) in inner.items():
        path = f"/sys/fs/cgroup/{controller}/{v1}" if V1 else f"/sys/fs/cgroup/{v2}"
        assert nested.ok("exec", id, "cat", path) == value
    # Seen from the machine the group lies in that of the outer container.
    found = [base for base in groups_below(nested.outer) if base.endswith(id)]
    assert found and all(f"/docker/{nested.outer}/" in base for base in found), found
    nested.ok("update", "--pids-limit", "30", id)
    assert nested.ok("exec", id, "cat", "/sys/fs/cgroup/pids/pids.max" if V1 else "/sys/fs/cgroup/pids.max") == "30"
    hog = nested.cli("run", "--name", "hog", "--network", "none", "--memory", "16m", "busybox", "sh", "-c",
                     "x=x; while :; do x=$x$x; done")
    assert hog.returncode == 137 and nested.inspect("hog")["State"]["OOMKilled"]


def test_volumes_and_mounts(nested):
    nested.ok("run", "--rm", "--network", "none", "-v", "data:/data", "busybox", "sh", "-c", "echo kept >/data/file")
    out = nested.ok("run", "--rm", "--network", "none", "-v", "data:/data:ro", "-v", "/usr/bin:/programs:ro", "busybox",
                    "sh", "-c", "cat /data/file; ls /programs")
    assert out.split()[0] == "kept" and "gantryd" in out.split()


def test_the_inner_engine_dies_and_comes_back(nested, engine):
    id = nested.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
    pid = nested.inspect(id)["State"]["Pid"]
    engine.ok("exec", nested.outer, "sh", "-c", "kill -9 $(pidof gantryd)")
    nested.wait_up()
    state = nested.inspect(id)["State"]
    assert (state["Running"], state["Pid"]) == (True, pid)
    assert nested.ok("exec", id, "echo", "there") == "there"


@pytest.mark.parametrize("orderly", [True, False])
def test_the_outer_container_is_started_again(nested, engine, orderly):
    """What a power loss is to an engine on a machine: only the data root is left."""
    id = nested.ok("run", "-d", "--network", "none", "busybox", "sh", "-c", "echo once; sleep 600")
    wait_for(lambda: nested.ok("logs", id) == "once", "output of an inner container")
    if orderly:
        engine.ok("restart", nested.outer)
    else:
        time.sleep(2)  # What runs for a second is remembered.
        engine.ok("kill", nested.outer)
        engine.ok("start", nested.outer)
    nested.wait_up()
    state = nested.inspect(id)["State"]
    assert state["Status"] == "exited" and state["ExitCode"] != 0, state
    assert nested.ok("logs", id) == "once"
    nested.ok("start", id)
    wait_for(lambda: nested.ok("logs", id).split() == ["once", "once"], "output of its second life")


def test_the_end_of_the_outer_container_is_the_end_of_all(nested, engine):
    ids = [nested.ok("run", "-d", "--network", "none", "busybox", "sleep", "600") for _ in range(3)]
    assert groups_below(nested.outer)
    engine.ok("rm", "-f", nested.outer)
    assert not groups_below(nested.outer)
    assert not any(id in leaks.read("/proc/self/mountinfo") for id in [nested.outer, *ids])
    processes = leaks.engine_processes(engine)
    assert not [name for name in processes.values() if name == "sleep"], processes
