"""Hooks of CDI devices and of NVIDIA's toolkit: fake programs write down what they see, and when."""
import json
import os
import pathlib
import shutil
import signal
import tempfile
import time

import leaks
import pytest
from engine import Daemon, wait_for
from test_userns import UID, Remapped

pytestmark = pytest.mark.gantry

KINDS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
PREFIX = ("failed to create task for container: failed to create shim task: OCI runtime create failed: "
          "runc create failed: ")
INIT = PREFIX + "unable to start container process: error during container init: "
# $1: name, $2: exit code, $3: seconds. What it writes appears whole.
RECORD = """#!/bin/sh
fds=; for fd in /proc/self/fd/*; do fds="$fds $fd"; done
exec 3> "$LOG/.$1.$$"
{ echo "state=$(cat)"; for ns in mnt pid net uts cgroup user; do echo "$ns=$(readlink /proc/self/ns/$ns)"; done
  echo "cwd=$(pwd)"; echo "host=$(hostname)"; echo "env=$(env | sort | tr '\\n' ' ')"; echo "fds=$fds"
  echo "caps=$(grep CapEff /proc/self/status)"; } >&3
mv "$LOG/.$1.$$" "$LOG/$(date +%s%N)-$1"
[ -z "$3" ] || sleep $3
echo "out of $1"; echo "err of $1" >&2
[ -z "$DO" ] || eval "$DO"
exit ${2:-0}
"""


def specification(root, log):
    record = str(root / "record")

    def hook(kind, *args, env=(), **more):
        return {"hookName": kind, "path": record, "args": ["hook", *args], "env": [f"LOG={log}", *env]} | more

    inside = {"hookName": "startContainer", "path": "/bin/sh", "env": ["LC=1"],
              "args": ["sh", "-c", "cat > /tmp/state; id > /tmp/id; grep -E 'Seccomp:|CapEff' /proc/self/status > /tmp/rights"]}
    touch_by_pid = ("DO=pid=$(sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p' $LOG/*-createRuntime); "
                    "nsenter -t $pid -m touch $(pwd)/rootfs/by-pid")
    devices = {
        "all": [hook(kind, kind) for kind in KINDS if kind != "startContainer"] + [inside],
        "root": [hook("createRuntime", "createRuntime", env=[touch_by_pid]),
                 hook("createContainer", "createContainer", env=["DO=touch by-cwd; mount -t tmpfs hooked dev/shm"])],
        "two": [hook("createContainer", "first"), hook("createContainer", "second", "4"), hook("poststop", "poststop")],
        "slow": [hook("createRuntime", "slow", "0", "3")],
        "endless": [hook("createRuntime", "endless", "0", "1000")],
        "inside-fails": [{"hookName": "startContainer", "path": "/bin/sh",
                          "args": ["sh", "-c", "echo o; echo e >&2; exit 3"]}],
        "stops": [hook("poststop", "broken", "9"), hook("poststop", "poststop")],
        "plain": [{"hookName": "createRuntime", "path": record, "args": ["hook", "plain"], "env": []}],
    }
    for kind in KINDS:
        # Inside a container there is no such program: what is in its place ends with 1.
        fails = {"hookName": kind, "path": "/bin/false"} if kind == "startContainer" else hook(kind, kind, "3")
        devices[f"fail-{kind.lower()}"] = [fails, hook("poststop", "after")]
        devices[f"gone-{kind.lower()}"] = [{"hookName": kind, "path": "/nonexistent/hook"}]
        devices[f"late-{kind.lower()}"] = [{"hookName": kind, "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]
    return {"cdiVersion": "0.6.0", "kind": "vendor.com/class",
            "devices": [{"name": name, "containerEdits": {"hooks": hooks}} for name, hooks in devices.items()]}


class Hooked:
    def prepare(self):
        self.spec_dir, self.hook_log = self.workdir / "cdi", self.workdir / "hook-log"
        self.spec_dir.mkdir()
        self.hook_log.mkdir(mode=0o777)
        self.hook_log.chmod(0o777)
        for path in [self.workdir, *self.workdir.parents]:
            if path.stat().st_mode & 0o1 == 0:
                path.chmod(path.stat().st_mode | 0o111)  # for hooks in user namespaces
        record = self.workdir / "record"
        record.write_text(RECORD)
        record.chmod(0o755)
        (self.spec_dir / "vendor.json").write_text(json.dumps(specification(self.workdir, self.hook_log)))
        self.args += [f"--cdi-spec-dir={self.spec_dir}"]

    def records(self):
        """What hooks have written, in their order, and forgets it."""
        found = {}
        for path in sorted(self.hook_log.glob("[0-9]*")):
            lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
            found[path.name.split("-", 1)[1]] = lines | {"state": json.loads(lines["state"])}
            path.unlink()
        return found

    def try_start(self, device, cmd=("true",), **host):
        body = {"Image": "busybox", "Cmd": list(cmd), "HostConfig": {
            "NetworkMode": "none", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"vendor.com/class={device}"]}]} | host}
        status, doc = self.json("POST", "/containers/create", body)
        assert status == 201, doc
        status, answer = self.json("POST", f"/containers/{doc['Id']}/start")
        return doc["Id"], status, answer and answer["message"]

    def bundles(self):
        path = self.exec_root / "hooks"
        return sorted(os.listdir(path)) if path.exists() else []


class HookedDaemon(Hooked, Daemon):
    pass


class HookedRemapped(Hooked, Remapped):
    pass


@pytest.fixture(scope="module")
def hooked(workdir, image_tar):
    eng = HookedDaemon(pathlib.Path(tempfile.mkdtemp(prefix="hk-", dir=workdir)))
    eng.prepare()
    for name in ("runc", "crun"):
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path:
            eng.args += ["--add-runtime", f"{name}={path}"]
    # NVIDIA's hook is looked for by PATH.
    eng.bin = eng.workdir / "bin"
    eng.bin.mkdir()
    eng.extra_env = {"PATH": f"{eng.bin}:{os.environ['PATH']}", "LOG": str(eng.hook_log)}
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    yield eng
    eng.remove_all()
    assert eng.bundles() == []
    eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.fixture(autouse=True)
def forget(request):
    yield
    if "hooked" in request.fixturenames:
        eng = request.getfixturevalue("hooked")
        eng.remove_all()
        wait_for(lambda: eng.bundles() == [], lambda: f"bundles are left: {eng.bundles()}")
        eng.records()


def namespaces(pid):
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "pid", "net", "uts", "cgroup", "user")}


SCRIPT = "cat /tmp/state; echo; cat /tmp/id /tmp/rights; readlink /proc/self/ns/net; grep -E 'Seccomp:|CapEff' /proc/self/status"


def test_every_kind_at_its_moment(hooked):
    done = hooked.ok("run", "--name", "cc", "--network", "none", "--annotation", "my.note=1", "-e", "SECRET=x", "--cpus", "1",
                     "--device", "vendor.com/class=all", "busybox", "sh", "-c", SCRIPT).splitlines()
    cid = hooked.inspect("cc")["Id"]
    wait_for(lambda: list(hooked.hook_log.glob("[0-9]*-poststop")), "poststop ran")
    records = hooked.records()
    assert list(records) == [kind for kind in KINDS if kind != "startContainer"], "in the specification's order"
    states = {kind: record["state"] for kind, record in records.items()}
    states["startContainer"] = json.loads(done[0])
    bundle = f"{hooked.exec_root}/hooks/{cid}"
    for kind, status in zip(KINDS, ["creating", "creating", "creating", "created", "running", "stopped"]):
        state = states[kind]
        assert (state["id"], state["status"], state["bundle"]) == (cid, status, bundle), kind
        assert state["annotations"] == {"my.note": "1"} and state["ociVersion"].startswith("1."), kind
    pid = states["prestart"]["pid"]
    assert pid > 1 and states["createRuntime"]["pid"] == states["poststart"]["pid"] == pid
    assert states["createContainer"]["pid"] == states["startContainer"]["pid"] == 1, "as the container sees it"
    assert "pid" not in states["poststop"]
    own = namespaces(hooked.pid)
    for kind in ("prestart", "createRuntime", "poststart", "poststop"):
        record = records[kind]
        assert {ns: record[ns] for ns in ("pid", "net", "uts", "cgroup", "user")} == {
            ns: own[ns] for ns in ("pid", "net", "uts", "cgroup", "user")}, kind
        assert record["cwd"] == bundle
    for kind, record in records.items():
        assert record["env"].split() == [f"LOG={hooked.hook_log}", f"PWD={record['cwd']}"], "nothing but its own"
        fds = {path.rsplit("/", 1)[1] for path in record["fds"].split()}
        assert {"0", "1", "2"} <= fds <= {"0", "1", "2", "3", "10"}, (kind, "3 and 10 are the shell's")
    inside = records["createContainer"]
    assert inside["net"] == done[4] and inside["cwd"] == f"{bundle}/rootfs"
    assert all(inside[ns] != own[ns] for ns in ("pid", "net", "uts", "mnt")) and inside["user"] == own["user"]
    assert done[1].startswith("uid=0") and done[2:4] == done[5:7], "with the rights of the program"
    assert done[2].split()[1] != "000001ffffffffff" and done[3].split() == ["Seccomp:", "2"]


def test_the_root_file_system_can_be_changed(hooked):
    out = hooked.ok("run", "--rm", "--network", "none", "--device", "vendor.com/class=root", "busybox", "sh", "-c",
                    "ls /by-pid /by-cwd; grep ' /dev/shm ' /proc/self/mountinfo | tail -1; ls /; cat /proc/mounts")
    assert out.splitlines()[:2] == ["/by-cwd", "/by-pid"]
    assert "hooked" in out.splitlines()[2]
    assert str(hooked.exec_root) not in out, "nothing of the host's mounts is left inside"


def test_the_document_says_what_the_container_gets(hooked):
    cid, status, _ = hooked.try_start("slow", ["sleep", "1000"], Memory=64 << 20, Binds=["/etc:/mnt/etc:ro"],
                                      ReadonlyRootfs=True)
    assert status == 204
    doc = json.loads((hooked.exec_root / "hooks" / cid / "config.json").read_text())
    assert doc["process"]["args"] == ["sleep", "1000"] and doc["linux"]["resources"]["memory"]["limit"] == 64 << 20
    assert doc["root"] == {"path": f"{hooked.exec_root}/hooks/{cid}/rootfs", "readonly": True}
    assert {"destination": "/mnt/etc", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]} in doc["mounts"]
    assert list(doc["hooks"]) == ["createRuntime"]
    assert list((hooked.exec_root / "hooks" / cid / "rootfs").iterdir()) == [], "not attached on the host"


@pytest.mark.parametrize("host", [{"PidMode": "host"}, {"PidMode": "container:other"}, {"NetworkMode": "host"},
                                  {"Init": True}, {"Privileged": True}], ids=str)
def test_with_other_namespaces(hooked, host):
    if "container:other" in host.values():
        hooked.ok("run", "-d", "--name", "other", "--network", "none", "busybox", "sleep", "1000")
    cid, status, message = hooked.try_start("all", ["sleep", "1000"], **host)
    assert status == 204, message
    assert hooked.json("POST", f"/containers/{cid}/kill")[0] == 204
    hooked.ok("wait", cid)
    wait_for(lambda: hooked.bundles() == [], "put away")
    assert list(hooked.records()) == [kind for kind in KINDS if kind != "startContainer"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("startContainer", "poststop")])
def test_a_failure_fails_the_start(hooked, kind):
    start = PREFIX if kind == "poststart" else INIT
    for device, code, text in [
            ("fail", 128, f"exit status 3, stdout: out of {kind}\n, stderr: err of {kind}\n"),
            ("gone", 127, "fork/exec /nonexistent/hook: no such file or directory"),
            ("late", 128, "hook ran past specified timeout of 1.0s")]:
        cid, status, message = hooked.try_start(f"{device}-{kind.lower()}", ["sleep", "1000"])
        assert message == f"{start}error running {kind} hook #0: {text}"
        assert status == (400 if code == 127 else 500)
        state = hooked.inspect(cid)["State"]
        assert (state["Status"], state["ExitCode"], state["Pid"]) == ("created", code, 0) and state["Error"] == message
        assert hooked.bundles() == []
        ran = list(hooked.records())
        assert ran == ([kind, "after"] if device == "fail" else []), "what belongs behind the end runs anyway"
    wait_for(lambda: "1000" not in hooked.ok("ps", "-q"), "nothing runs")


def test_a_failure_inside_is_the_containers(hooked):
    for device, text in [
            ("inside-fails", "error running startContainer hook #0: exit status 3, stdout: o\n, stderr: e\n\n"),
            ("gone-startcontainer",
             "error running startContainer hook #0: fork/exec /nonexistent/hook: no such file or directory\n"),
            ("late-startcontainer", "error running startContainer hook #0: hook ran past specified timeout of 1.0s\n")]:
        done = hooked.cli("run", "--network", "none", "--device", f"vendor.com/class={device}", "busybox", "echo", "run")
        assert (done.returncode, done.stdout, done.stderr) == (255, "", text)


def test_the_second_of_two_fails(hooked):
    _, status, message = hooked.try_start("two")
    assert status == 500 and "error running createContainer hook #1: exit status 4" in message
    assert list(hooked.records()) == ["first", "second", "poststop"]


def test_failures_after_the_end_are_only_logged(hooked):
    for device in ("stops", "fail-poststop", "gone-poststop", "late-poststop"):
        done = hooked.cli("run", "--network", "none", "--device", f"vendor.com/class={device}", "busybox", "echo", "run")
        assert (done.returncode, done.stdout) == (0, "run\n")
        wait_for(lambda: hooked.bundles() == [], "put away")
        ran = hooked.records()
        assert list(ran) == {"stops": ["broken", "poststop"], "fail-poststop": ["poststop", "after"]}.get(device, [])
    assert "error running poststop hook #0: exit status 9, stdout: out of broken" in hooked.log_path.read_text()


def test_a_slow_hook_keeps_nobody_else_waiting(hooked):
    slow = hooked.popen("run", "--rm", "--network", "none", "--device", "vendor.com/class=slow", "busybox", "true")
    wait_for(lambda: list(hooked.hook_log.glob("[0-9]*-slow")), "the slow hook runs")
    begin = time.monotonic()
    hooked.ok("run", "--rm", "--network", "none", "busybox", "true")
    took = time.monotonic() - begin
    assert slow.poll() is None, f"another container took {took} s"
    assert slow.wait(60) == 0


def test_a_daemon_that_dies_while_a_hook_runs(workdir, image_tar):
    eng = HookedDaemon(pathlib.Path(tempfile.mkdtemp(prefix="hkd-", dir=workdir)))
    eng.prepare()
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    eng.ok("create", "--name", "cc", "--network", "none", "--device", "vendor.com/class=endless", "busybox", "sleep", "1000")
    eng.ok("run", "-d", "--name", "runs", "--network", "none", "--device", "vendor.com/class=all", "busybox", "sleep", "1000")
    eng.records()
    starting = eng.popen("start", "cc")
    wait_for(lambda: list(eng.hook_log.glob("[0-9]*-endless")), "the hook runs")
    eng.kill9()
    starting.wait(60)
    eng.start()
    state = eng.inspect("cc")["State"]
    assert state["Pid"] == 0 and not state["Running"]
    assert eng.inspect("runs")["State"]["Running"]
    running = eng.inspect("runs")["Id"]
    wait_for(lambda: eng.bundles() == [running], lambda: f"the one that came to nothing is put away: {eng.bundles()}")
    # The hook itself may run on for its time; nobody waits for it.
    for pid in leaks.engine_processes(eng):
        if b"endless" in leaks.read(f"/proc/{pid}/cmdline", "rb"):
            os.killpg(pid, signal.SIGKILL)
    eng.records()
    eng.ok("kill", "runs")
    wait_for(lambda: eng.bundles() == [], "the adopted one is put away")
    assert list(eng.records()) == ["poststop"], "by the daemon that did not start it"
    eng.remove_all()
    eng.stop()
    leaks.assert_nothing_left(eng)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_external_runtimes_get_them_in_their_document(hooked, runtime):
    if not any(arg.startswith(f"{runtime}=") for arg in hooked.args):
        pytest.skip(f"{runtime} is not installed")
    out = hooked.ok("run", "--rm", "--runtime", runtime, "--network", "none", "--annotation", "my.note=1",
                    "--device", "vendor.com/class=all", "busybox", "cat", "/tmp/state")
    assert json.loads(out)["annotations"] == {"my.note": "1"}
    records = hooked.records()
    assert sorted(records) == sorted(kind for kind in KINDS if kind != "startContainer")
    _, status, message = hooked.try_start("fail-createruntime", Runtime=runtime)
    assert status == 500 and message.startswith("failed to create task for container: "), message
    assert hooked.bundles() == []


def test_in_a_user_namespace(workdir, image_tar):
    from test_userns import started
    eng = HookedRemapped.__new__(HookedRemapped)

    def kind(root):
        Daemon.__init__(eng, root)
        eng.prepare()
        return eng
    started(kind, workdir, image_tar)
    try:
        done = eng.ok("run", "--rm", "--network", "none", "--device", "vendor.com/class=all", "busybox", "sh", "-c",
                      "cat /tmp/state; echo; cat /proc/self/uid_map; grep -c . /proc/self/mountinfo").splitlines()
        assert json.loads(done[0])["pid"] == 1 and done[1].split() == ["0", str(UID), "65536"]
        records = eng.records()
        assert list(records) == [kind for kind in KINDS if kind != "startContainer"]
        assert records["createContainer"]["user"] != records["createRuntime"]["user"]
        assert eng.bundles() == []
    finally:
        eng.remove_all()
        eng.stop()
    leaks.assert_nothing_left(eng)


# --- devices of vendors ---------------------------------------------------------------------------

@pytest.fixture
def nvidia(hooked):
    program = hooked.bin / "nvidia-container-runtime-hook"
    program.write_text(RECORD)
    program.chmod(0o755)
    yield program
    program.unlink()


@pytest.mark.parametrize("gpus, variables", [
    ("all", ["NVIDIA_VISIBLE_DEVICES=all"]), ("2", ["NVIDIA_VISIBLE_DEVICES=0,1"]),
    ("count=0", ["NVIDIA_VISIBLE_DEVICES=void"]), ('"device=a,b"', ["NVIDIA_VISIBLE_DEVICES=a,b"]),
    ('"device=a","capabilities=compute,utility"',
     ["NVIDIA_DRIVER_CAPABILITIES=compute,utility", "NVIDIA_VISIBLE_DEVICES=a"])])
def test_nvidia_by_its_hook(hooked, nvidia, gpus, variables):
    out = hooked.ok("run", "--rm", "--network", "none", "--gpus", gpus, "busybox", "env")
    assert sorted(line for line in out.splitlines() if line.startswith("NVIDIA")) == variables
    record = hooked.records()["prestart"]
    assert record["state"]["status"] == "creating" and f"GANTRY_TEST_MARK={hooked.mark}" in record["env"]


@pytest.mark.parametrize("request_, text", [
    ({"Driver": "nvidia", "Count": 1, "DeviceIDs": ["a"], "Capabilities": [["gpu"]]},
     "cannot set both Count and DeviceIDs on device request"),
    ({"Driver": "nvidia", "Count": 1}, 'could not select device driver "nvidia" with capabilities: []'),
    ({"Driver": "amd", "Count": 1, "Capabilities": [["gpu"]]},
     'could not select device driver "amd" with capabilities: [[gpu]]'),
    ({"Driver": "", "Count": 1, "Capabilities": [["x"]]}, 'could not select device driver "" with capabilities: [[x]]')])
def test_requests_that_no_driver_takes(hooked, nvidia, request_, text):
    _, status, message = hooked.try_start("all", DeviceRequests=[request_])
    assert (status, message) == (500, text)


def test_nvidia_by_its_specifications(hooked):
    spec = {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
            "devices": [{"name": name, "containerEdits": {"env": [f"GPU_{name}=1"]}} for name in ("0", "1", "all")]}
    path = hooked.spec_dir / "nvidia.json"
    refused = 'could not select device driver "" with capabilities: [[gpu]]'
    done = hooked.cli("run", "--rm", "--network", "none", "--gpus", "all", "busybox", "true")
    assert done.returncode == 125 and refused in done.stderr
    path.write_text(json.dumps(spec))
    try:
        for gpus, names in [("all", ["GPU_all=1"]), ("2", ["GPU_0=1", "GPU_1=1"]), ("device=1", ["GPU_1=1"]),
                            ("device=nvidia.com/gpu=0", ["GPU_0=1"])]:
            out = hooked.ok("run", "--rm", "--network", "none", "--gpus", gpus, "busybox", "env")
            assert sorted(line for line in out.splitlines() if line.startswith("GPU")) == names, gpus
        done = hooked.cli("run", "--rm", "--network", "none", "--gpus", "3", "busybox", "true")
        assert "unresolvable CDI devices nvidia.com/gpu=2" in done.stderr
    finally:
        path.unlink()


def test_amd_by_a_variable(hooked):
    program = hooked.bin / "amd-container-runtime"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    try:
        out = hooked.ok("run", "--rm", "--network", "none", "--gpus", "all", "busybox", "env")
        assert "AMD_VISIBLE_DEVICES=all" in out.splitlines()
    finally:
        program.unlink()
