"""runc and crun on control groups of version 2: life, limits, exec, pause, update, and that nothing is left."""
import os
import shutil

import pytest
from conftest import boot
from engine import wait_for

RUNTIMES = ["runc", "crun"]
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def shared_guest(workdir, image_tar):
    found = {name: path for name in RUNTIMES if (path := shutil.which(name, path=PATH))}
    if not found:
        pytest.skip("neither runc nor crun is installed")
    guest = boot("new", workdir / "external", programs={f"usr/bin/{name}": path for name, path in found.items()})
    try:
        guest.runtimes = sorted(found)
        guest.start_daemon(*(f"--add-runtime {name}=/usr/bin/{name}" for name in found))
        guest.engine.ok("load", "-i", str(image_tar))
        yield guest
    finally:
        guest.stop()


@pytest.fixture(params=RUNTIMES)
def runtime(request, guest):
    if request.param not in guest.runtimes:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_a_life(guest, engine, runtime):
    args = ("--network", "none", "--runtime", runtime)
    assert engine.cli("run", "--rm", *args, "busybox", "sh", "-c", "echo hi; exit 7").returncode == 7
    engine.ok("run", "-d", "--name", "box", *args, "--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "busybox",
              "sleep", "600")
    pid = engine.inspect("box")["State"]["Pid"]
    group = f"/sys/fs/cgroup/docker/{engine.inspect('box')['Id']}"
    assert guest.read(f"{group}/memory.max").strip() == str(64 << 20)
    assert guest.read(f"{group}/pids.max").strip() == "50" and guest.read(f"{group}/cpu.max").split()[0] == "50000"
    assert str(pid) in guest.read(f"{group}/cgroup.procs").split()
    # Its own group is the root of its cgroup namespace, and devices are limited by a program.
    out = engine.ok("exec", "box", "cat", "/proc/self/cgroup", "/sys/fs/cgroup/memory.max")
    assert out.split() == ["0::/", str(64 << 20)]
    done = engine.cli("exec", "box", "sh", "-c", "mknod /m b 254 0; cat /m")
    assert done.returncode and "not permitted" in done.stderr, done
    engine.ok("pause", "box")
    assert guest.read(f"{group}/cgroup.freeze").strip() == "1"
    engine.ok("unpause", "box")
    engine.ok("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "-1", "box")
    assert guest.read(f"{group}/memory.max").strip() == str(96 << 20) and guest.read(f"{group}/pids.max").strip() == "max"
    assert engine.ok("exec", "-t", "box", "tty").strip() == "/dev/pts/0"
    engine.ok("kill", "--signal", "KILL", "box")
    assert engine.ok("wait", "box") == "137"
    engine.ok("rm", "box")


def test_a_restart_of_the_daemon(guest, engine, runtime):
    engine.ok("run", "-d", "--name", "box", "--network", "none", "--runtime", runtime, "busybox", "sh", "-c",
              "while [ ! -e /go ]; do sleep 0.1; done; echo last; exit 5")
    guest.kill_daemon()
    guest.start_daemon(*(f"--add-runtime {name}=/usr/bin/{name}" for name in guest.runtimes))
    wait_for(lambda: engine.inspect("box")["State"]["Running"], "it is adopted")
    engine.ok("exec", "box", "touch", "/go")
    assert engine.ok("wait", "box") == "5" and engine.ok("logs", "box") == "last"


def test_a_kill_for_lack_of_memory(guest, engine, runtime):
    done = engine.cli("run", "--name", "box", "--network", "none", "--runtime", runtime, "--memory", "24m", "--memory-swap",
                      "24m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1")
    assert done.returncode == 137 and engine.inspect("box")["State"]["OOMKilled"]
