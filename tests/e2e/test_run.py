"""`docker run`: output, exit codes, messages, streams."""
import hashlib
import os
import subprocess
import threading

import pytest
from conftest import FULL

INIT_ERROR = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "


def test_hi(engine):
    done = engine.cli("run", "--rm", "busybox", "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert engine.ok("ps", "-aq") == ""


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_code(engine, code):
    assert engine.cli("run", "--rm", "busybox", "sh", "-c", f"exit {code}").returncode == code


def test_killed_by_signal_is_128_plus(engine):
    done = engine.cli("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?")
    assert done.returncode == 143


@pytest.mark.parametrize("argv,code,text", [
    (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 126, 'exec: "/etc": is a directory'),
])
def test_program_that_cannot_start(engine, argv, code, text):
    done = engine.cli("run", "--rm", "busybox", *argv)
    assert done.returncode == code, done.stderr
    assert INIT_ERROR + text in done.stderr
    assert done.stderr.startswith("docker: Error response from daemon: failed to create task for container: "
                                  "failed to create shim task: ")
    assert engine.ok("ps", "-aq") == ""


def test_missing_image(engine):
    done = engine.cli("run", "--rm", "--pull", "never", "nosuch")
    assert done.returncode == 125
    assert "docker: Error response from daemon: No such image: nosuch:latest" in done.stderr
    status, doc = engine.json("POST", "/v1.48/containers/create", {"Image": "nosuch"})
    assert (status, doc) == (404, {"message": "No such image: nosuch:latest"})


def test_missing_workdir_is_made_and_env_is_set(engine):
    out = engine.ok("run", "--rm", "-w", "/a/b", "-e", "X=1 2", "-h", "me", "busybox", "sh", "-c",
                    'pwd; echo "$X"; hostname; echo "$HOME $PATH"; cat /etc/hostname')
    assert out.splitlines() == ["/a/b", "1 2", "me",
                                "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "me"]


@pytest.mark.parametrize("user,want", [
    ("", "uid=0(root) gid=0(root) groups=0(root)"),
    ("www-data", "uid=33(www-data) gid=33(www-data) groups=33(www-data)"),
    ("alice", "uid=1000(alice) gid=1000(alice) groups=50(staff),1000(alice)"),
    ("1000:50", "uid=1000(alice) gid=50(staff) groups=50(staff)"),
    ("4242", "uid=4242 gid=0(root) groups=0(root)"),
])
def test_user(engine, user, want):
    out = engine.ok("run", "--rm", "-u", user, "busybox", "id")
    # busybox prints the groups in the kernel's order
    assert sorted(out.replace(",", " ").split()) == sorted(want.replace(",", " ").split())


def test_unknown_user(engine):
    done = engine.cli("run", "--rm", "-u", "nobody-here", "busybox", "id")
    assert done.returncode in (125, 126)
    assert "unable to find user nobody-here: no matching entries in passwd file" in done.stderr


def test_sandbox(engine):
    """Namespaces, capabilities, seccomp, masked and read-only paths as Docker's defaults."""
    out = engine.ok("run", "--rm", "busybox", "sh", "-c", """
        grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status
        echo pid $$; ls /proc/acpi 2>/dev/null | wc -l; cat /proc/kcore 2>/dev/null | wc -c
        echo x 2>/dev/null >/proc/sys/kernel/hostname || echo sys-ro
        cat /proc/self/cgroup | cut -d: -f3 | sort -u
        ls /dev | sort | tr '\\n' ' '; echo; unshare -U true 2>/dev/null || echo no-userns
        stat -c %a /dev/shm /tmp; umask""").splitlines()
    assert sorted(out[:4]) == ["CapBnd:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "NoNewPrivs:\t0",
                               "Seccomp:\t2"]
    assert out[4:8] == ["pid 1", "0", "0", "sys-ro"]
    # On cgroup v1 the host's cgroup namespace is the default.
    v1 = os.path.exists("/sys/fs/cgroup/memory")
    assert (len(out[8]) > 64) if v1 else out[8] == "/"
    # runc links /dev/core only where the host has /proc/kcore
    assert [d for d in out[9].split() if d != "core"] == ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                              "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    assert out[10:] == ["no-userns", "1777", "1777", "0022"]


def test_limits_reach_the_cgroup(engine):
    name = engine.ok("run", "-d", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5", "busybox", "sleep", "600")
    host = engine.inspect(name)["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NanoCpus"]) == (64 << 20, 50, 500_000_000)
    pid = engine.inspect(name)["State"]["Pid"]
    with open(f"/proc/{pid}/cgroup") as f:
        paths = {c: p for line in f for _, cs, p in [line.strip().split(":", 2)] for c in cs.split(",")}
    if "memory" in paths:
        def value(controller, file):
            with open(f"/sys/fs/cgroup/{controller}{paths[controller]}/{file}") as f:
                return f.read().strip()
        assert value("memory", "memory.limit_in_bytes") == str(64 << 20)
        assert value("pids", "pids.max") == "50"
        assert value("cpu", "cpu.cfs_quota_us") == "50000"
    else:
        base = "/sys/fs/cgroup" + paths[""]
        for file, want in (("memory.max", str(64 << 20)), ("pids.max", "50"), ("cpu.max", "50000 100000")):
            with open(f"{base}/{file}") as f:
                assert f.read().strip() == want


def test_stdin_round_trip(engine):
    """Random bytes through `docker run -i cat` come back the same (1 GiB with GANTRY_FULL=1)."""
    total, sent, got = (1 << 30) if FULL else (64 << 20), hashlib.sha256(), hashlib.sha256()
    proc = engine.popen("run", "-i", "--rm", "busybox", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed():
        left = total
        while left:
            block = os.urandom(min(1 << 20, left))
            sent.update(block)
            proc.stdin.write(block)
            left -= len(block)
        proc.stdin.close()
    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    count = 0
    while block := proc.stdout.read(1 << 20):
        got.update(block)
        count += len(block)
    feeder.join(600)
    assert proc.wait(600) == 0
    assert (count, got.hexdigest()) == (total, sent.hexdigest())


def test_stdin_eof_reaches_a_reader(engine):
    done = engine.cli("run", "-i", "--rm", "busybox", "sh", "-c", "wc -c; echo end", input="12345")
    assert done.stdout.split() == ["5", "end"]


def test_both_streams_of_a_short_life(engine):
    """Stdout and stderr are unmixed and complete although the container ends at once."""
    script = "echo out1; echo err1 >&2; echo out2; echo err2 >&2"
    for i in range(1000 if FULL else 50):
        done = engine.cli("run", "--rm", "busybox", "sh", "-c", script)
        assert (done.returncode, done.stdout, done.stderr) == (0, "out1\nout2\n", "err1\nerr2\n"), f"round {i}"


def test_both_streams_at_once_in_bulk(engine):
    lines = 200_000
    script = f"seq 1 {lines} & seq 1 {lines} >&2; wait"
    done = engine.cli("run", "--rm", "busybox", "sh", "-c", script)
    want = "".join(f"{i}\n" for i in range(1, lines + 1))
    assert done.stdout == want and done.stderr == want


def test_binary_output_is_untouched(engine):
    done = engine.cli("run", "--rm", "busybox", "sh", "-c", r"printf '\000\001\377\200a'", text=False)
    assert done.stdout == b"\x00\x01\xff\x80a"


def test_entrypoint_and_cmd_rules(engine):
    assert engine.ok("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b"
    done = engine.cli("run", "--rm", "-i", "busybox", input="echo from-default-cmd\n")
    assert done.stdout == "from-default-cmd\n"


def test_network_modes(engine):
    assert engine.ok("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net") == "lo"
    first = engine.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
    link = "readlink /proc/self/ns/net"
    shared = engine.ok("run", "--rm", "--network", f"container:{first}", "busybox", "sh", "-c", link)
    pid = engine.inspect(first)["State"]["Pid"]
    assert shared == os.readlink(f"/proc/{pid}/ns/net")
    assert engine.ok("run", "--rm", "--network", "none", "busybox", "sh", "-c", link) != shared


@pytest.mark.gantry
def test_host_network(engine):
    seen = engine.ok("run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net")
    assert seen == os.readlink(f"/proc/{engine.pid}/ns/net")


@pytest.mark.gantry
@pytest.mark.parametrize("flags", [["-p", "80:80"], ["--network", "own"], ["--runtime", "runsc"],
                                   ["-P", "--expose", "80"],
                                   ["--storage-opt", "size=1g"]])
def test_what_is_not_built_is_refused_loudly(engine, flags):
    done = engine.cli("run", "--rm", *flags, "busybox", "true")
    assert done.returncode == 125 and "Error response from daemon: " in done.stderr
    assert engine.ok("ps", "-aq") == ""
