"""Volumes and images whose own links try to lead what is mounted for a container to a file of the kernel."""
import tarfile
import uuid

import pytest

from test_volumes import image

# A file that a container may read, and must never have at a place where it could be written.
KERNEL_FILE = "/proc/sys/kernel/ostype"
CONTENT = "Linux"


def link(name, to):
    return (name, b"", {"type": tarfile.SYMTYPE, "linkname": to})


@pytest.fixture
def volume(engine):
    """Makes a volume, filled by a script that has it at /v."""
    names = []

    def fill(script):
        name = f"own-{uuid.uuid4().hex[:8]}"
        engine.ok("volume", "create", name)
        names.append(name)
        engine.ok("run", "--rm", "--network", "none", "-v", f"{name}:/v", "busybox", "sh", "-ec", script)
        return name
    yield fill
    engine.remove_all()
    for name in names:
        engine.ok("volume", "rm", name)


def run(engine, *args):
    return engine.cli("run", "--rm", "--network", "none", *args)


def test_what_is_no_null_device_masks_nothing(engine, volume):
    own = volume(f"ln -s {KERNEL_FILE} /v/null")
    ran = run(engine, "-v", f"{own}:/dev", "busybox", "cat", "/proc/kcore", "/proc/keys", "/proc/timer_list")
    assert CONTENT not in ran.stdout, "a file of the kernel lies where it may be written"
    assert ran.returncode != 0


def test_what_is_no_terminal_is_no_console(engine, volume):
    own = volume("ln -s /q /v/pts; touch /v/console; mknod /v/null c 1 3")
    with image(engine, "consoles", [("q", None, {}), link("q/0", KERNEL_FILE)]) as name:
        ran = run(engine, "-t", "-v", f"{own}:/dev", name, "cat", "/dev/console")
    assert CONTENT not in ran.stdout, "a file of the kernel lies where it may be written"


@pytest.mark.parametrize("to, target", [("/proc", "/data"), ("/proc/sys", "/data"), ("/proc", "/data/sys/kernel"), ("../proc", "/a/data/x")])
def test_a_link_to_proc_is_no_way_to_mount_there(engine, volume, to, target):
    own = volume("touch /v/mine")
    with image(engine, "procs", [("a", None, {}), link(target[1:].removesuffix("/x").removesuffix("/sys/kernel"), to)]) as name:
        ran = run(engine, "-v", f"{own}:{target}", name, "cat", "/proc/sys/kernel/ostype")
        assert ran.returncode in (125, 127) and not ran.stdout, ran.stderr
        assert "proc" in ran.stderr
        ran = run(engine, "--tmpfs", target, name, "cat", "/proc/sys/kernel/ostype")
        assert ran.returncode in (125, 127) and not ran.stdout, ran.stderr


def test_a_link_leads_into_what_is_mounted_before(engine, volume):
    """As /var/run does in many images, when /run is a file system of its own."""
    own = volume("touch /v/file; mkdir /v/dir; ln -s /elsewhere /v/away")
    with image(engine, "runs", [("run", None, {}), ("var", None, {}), link("var/run", "../run")]) as name:
        ran = run(engine, "--tmpfs", "/run", "-v", f"{own}:/var/run/sub/own", name, "ls", "/run/sub/own")
        assert ran.stdout.split() == ["away", "dir", "file"], ran.stderr
        ran = run(engine, "-v", f"{own}:/run", "-v", "/etc/passwd:/var/run/file", name, "grep", "-c", "root", "/run/file")
        assert ran.stdout.strip() == "1", ran.stderr
        ran = run(engine, "-v", f"{own}:/run", "-v", "/etc:/var/run/away/x", name, "ls", "/elsewhere/x/passwd")
        assert ran.stdout.strip() == "/elsewhere/x/passwd", ran.stderr
