"""User namespaces on control groups of version 2, and AppArmor, which the machine of the other tests may not have."""
import kernels
import pytest
from conftest import boot

MAP = "0 100000 65536"
ETC = """echo 'dockremap:x:899:899::/:/bin/false' >> /etc/passwd
echo 'dockremap:x:899:' >> /etc/group
echo 'dockremap:100000:65536' > /etc/subuid
echo 'dockremap:100000:65536' > /etc/subgid
"""


def apparmor():
    """The program that loads profiles, and what it includes; nothing if it can't be had here."""
    try:
        root = kernels.package("apparmor")
    except kernels.Unavailable:
        return {}
    parser = next(p for p in (root / "sbin/apparmor_parser", root / "usr/sbin/apparmor_parser") if p.exists())
    return {"programs": {"sbin/apparmor_parser": parser}, "trees": {"etc/apparmor.d": root / "etc/apparmor.d"}}


@pytest.fixture(scope="module")
def shared_guest(workdir, image_tar):
    guest = boot("new", workdir / "confinement", append="apparmor=1 security=apparmor", swap=False, **apparmor())
    try:
        guest.ok(ETC)
        guest.start_daemon("--userns-remap", "dockremap")
        guest.engine.ok("load", "-i", str(image_tar))
        yield guest
    finally:
        guest.stop()


def test_a_user_namespace(guest, engine):
    engine.ok("run", "-d", "--name", "box", "--network", "none", "--memory", "64m", "busybox", "sleep", "600")
    pid = engine.inspect("box")["State"]["Pid"]
    assert guest.read(f"/proc/{pid}/uid_map").split() == MAP.split()
    assert guest.ok(f"grep ^Uid /proc/{pid}/status").split()[1:] == ["100000"] * 4
    # The container's own group is the root of its cgroup namespace.
    out = engine.ok("exec", "box", "sh", "-c", "id -u; cat /proc/self/cgroup /sys/fs/cgroup/memory.max; stat -c %u / /etc/hosts; touch /x")
    assert out.split() == ["0", "0::/", str(64 << 20), "0", "0"]
    done = engine.cli("exec", "box", "mkdir", "/sys/fs/cgroup/sub")
    assert done.returncode and "Permission denied" in done.stderr
    engine.ok("run", "--rm", "--network", "none", "--userns", "host", "--privileged", "busybox", "mkdir", "/sys/fs/cgroup/sub")
    assert "name=userns" in engine.json("GET", "/info")[1]["SecurityOptions"]


def needs_apparmor(guest):
    if guest.script("grep -q Y /sys/module/apparmor/parameters/enabled && [ -d /sys/kernel/security/apparmor ]")[0]:
        pytest.skip("this kernel has no AppArmor")


@pytest.mark.parametrize("userns", ["", "host"])
def test_an_apparmor_profile(guest, engine, userns):
    needs_apparmor(guest)
    assert "name=apparmor" in engine.json("GET", "/info")[1]["SecurityOptions"]
    args = ("--network", "none", "--userns", userns)
    engine.ok("run", "-d", "--name", "box", *args, "--security-opt", "apparmor=unconfined", "busybox", "sleep", "600")
    assert engine.inspect("box")["AppArmorProfile"] == "unconfined"
    assert engine.ok("exec", "box", "cat", "/proc/self/attr/apparmor/current").split()[0] == "unconfined"
    # A profile that is not loaded confines nobody by chance.
    done = engine.cli("run", "--rm", *args, "--security-opt", "apparmor=nosuch", "busybox", "true")
    assert done.returncode in (125, 127) and "apply the apparmor profile" in done.stderr, done


@pytest.mark.parametrize("userns", ["", "host"])
def test_the_default_profile(guest, engine, userns):
    """Loaded at the daemon's start, and again when somebody has unloaded it; it confines what names no other."""
    needs_apparmor(guest)
    if guest.script("[ -x /sbin/apparmor_parser ]")[0]:
        pytest.skip("no apparmor_parser to load profiles with")
    assert "docker-default (enforce)" in guest.read("/sys/kernel/security/apparmor/profiles")
    guest.ok("printf docker-default > /sys/kernel/security/apparmor/.remove")
    args = ("--network", "none", "--userns", userns)
    engine.ok("run", "-d", "--name", "box", *args, "busybox", "sleep", "600")
    assert engine.inspect("box")["AppArmorProfile"] == "docker-default"
    for command in (("exec", "box"), ("run", "--rm", *args, "busybox")):
        assert engine.ok(*command, "cat", "/proc/self/attr/apparmor/current") == "docker-default (enforce)"
    free = ("run", "--rm", "--network", "none", "--userns", "host")
    assert engine.ok(*free, "--privileged", "busybox", "cat", "/proc/self/attr/apparmor/current") == "unconfined"
    # What capabilities and file modes let through.
    mount = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "busybox", "mount", "-t", "tmpfs", "x", "/tmp")
    done = engine.cli("run", "--rm", *args, *mount)
    assert done.returncode and "ermission denied" in done.stderr, done
    engine.ok("run", "--rm", *args, "--security-opt", "apparmor=unconfined", *mount)
    assert engine.ok("exec", "box", "sh", "-c", "sleep 100 & kill $! && cat /proc/$$/environ | wc -c") != "0"
