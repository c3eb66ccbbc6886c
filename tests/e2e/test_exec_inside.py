"""Execs from inside: where they are, what they may do, and what is left of many."""
import concurrent.futures
import os
import re
import subprocess
import time

import pytest
from conftest import FULL
from engine import wait_for
from test_exec import box, create, ended, frames, inspect, start, status  # noqa: F401 (box is a fixture)

LOOP = 10_000 if FULL else 500


@pytest.mark.gantry
def test_it_is_in_the_container_and_has_nothing_else(engine, box):
    pid = engine.inspect(box)["State"]["Pid"]
    eid = create(engine, box, "sleep", "1000")
    assert start(engine, eid)[0] == 200
    exec_pid = inspect(engine, eid)["Pid"]
    for name in sorted(os.listdir(f"/proc/{pid}/ns")):
        assert os.readlink(f"/proc/{exec_pid}/ns/{name}") == os.readlink(f"/proc/{pid}/ns/{name}"), name
    for name in ("cgroup", "limits", "mountinfo"):
        with open(f"/proc/{exec_pid}/{name}") as mine, open(f"/proc/{pid}/{name}") as its:
            assert mine.read() == its.read(), name
    assert sorted(os.listdir(f"/proc/{exec_pid}/fd")) == ["0", "1", "2"]
    with open(f"/proc/{exec_pid}/maps") as maps:
        assert "gantry" not in maps.read()
    out = engine.ok("exec", box, "sh", "-c", "cat /proc/self/cgroup; ls /proc | grep -c '^1$'; cat /proc/$$/stat")
    *groups, first, stat = out.splitlines()
    with open(f"/proc/{pid}/cgroup") as hosts:
        shared = os.readlink(f"/proc/{pid}/ns/cgroup") == os.readlink("/proc/self/ns/cgroup")
        assert groups == hosts.read().splitlines() if shared else all(g.endswith(":/") for g in groups)
    assert groups and first == "1"
    own, (parent, group, session) = stat.split()[0], stat.rpartition(") ")[2].split()[1:4]
    assert (parent, group, session) == ("0", own, own), "as dockerd's: no parent in sight, a session of its own"
    assert "sleep 1000" in engine.ok("top", box).splitlines()[-1]
    assert len(engine.ok("top", box).splitlines()) == 3


@pytest.mark.gantry
def test_terminals_are_the_containers(engine):
    engine.ok("run", "-dt", "--name", "ct", "busybox", "sleep", "1000")
    assert engine.ok("exec", "-t", "ct", "tty") == "/dev/pts/1"
    assert engine.ok("exec", "-u", "7", "-t", "ct", "sh", "-c", "ls -ln $(tty) | cut -c1-30; : > /dev/tty").split()[2] == "7"
    # A mount over it is no place for one.
    done = engine.cli("exec", "--privileged", "ct", "mount", "-t", "tmpfs", "x", "/dev/pts")
    if done.returncode == 0:
        assert "/dev/pts of the container" in engine.cli("exec", "-t", "ct", "true").stdout


def test_network_and_ipc_of_others_are_joined(engine):
    engine.ok("run", "-d", "--name", "hostnet", "--network", "host", "busybox", "sleep", "1000")
    assert engine.ok("exec", "hostnet", "cat", "/proc/net/dev").count("\n") >= 2


# --- ends ----------------------------------------------------------------------------------------

def test_the_containers_end_ends_them(engine, box):
    eids = [create(engine, box, "sleep", "1000") for _ in range(5)]
    for eid in eids:
        assert start(engine, eid)[0] == 200
    attached = [engine.popen("exec", box, "sleep", "1000", stdin=subprocess.DEVNULL) for _ in range(3)]
    wait_for(lambda: len(live := engine.inspect(box)["ExecIDs"]) == 8 and
             all(inspect(engine, eid)["Pid"] for eid in live), "all run")
    engine.ok("kill", box)
    assert [ended(engine, eid) for eid in eids] == [137] * 5
    assert [client.wait(60) for client in attached] == [137] * 3
    assert engine.inspect(box)["ExecIDs"] is None
    engine.ok("start", box)
    assert engine.ok("exec", box, "echo", "again") == "again"


def test_force_removal_while_execs_run(engine):
    for i in range(5):
        engine.ok("run", "-d", "--name", f"fr{i}", "busybox", "sleep", "1000")
        clients = [engine.popen("exec", f"fr{i}", "sleep", "1000", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL) for _ in range(3)]
        time.sleep(0.03 * i)
        engine.ok("rm", "-f", f"fr{i}")
        for client in clients:
            assert client.wait(60) != 0


@pytest.mark.gantry
def test_kill9_of_the_daemon(private_daemon):
    eng = private_daemon
    eng.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    # One writes all the time, one ends while nobody is there, one waits for the next daemon, one has a terminal.
    scripts = ["while :; do echo x; done", "sleep 1; exit 21", "while [ ! -e /go ]; do sleep 0.1; done; exit 22"]
    eids = [create(eng, "box", "sh", "-c", s, AttachStdout=True) for s in scripts]
    for eid in eids:
        assert start(eng, eid)[0] == 200
    sized = "while [ ! -e /sized ]; do sleep 0.1; done; stty size > /tmp/size; exit 23"
    tty = create(eng, "box", "sh", "-c", sized, Tty=True)
    assert start(eng, tty, Tty=True)[0] == 200
    client = eng.popen("exec", "-i", "box", "sh", "-c", "cat; exit 24", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL)
    client.stdin.write(b"hello\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"hello\n"
    before = {eid: inspect(eng, eid) for eid in [*eids, tty]}
    piped = set(eng.inspect("box")["ExecIDs"]) - set(before)
    eng.kill9()
    client.communicate(timeout=60)
    time.sleep(1.5)
    eng.start()
    assert eng.json("POST", f"/v1.48/exec/{tty}/resize?h=7&w=9")[0] == 200
    eng.ok("exec", "box", "touch", "/sized")
    assert ended(eng, eids[1]) == 21
    assert {eid: inspect(eng, eid) for eid in (eids[0], eids[2])} == {e: before[e] for e in (eids[0], eids[2])}
    assert ended(eng, tty) == 23 and eng.ok("exec", "box", "cat", "/tmp/size") == "7 9"
    assert ended(eng, piped.pop()) == 24, "its client is gone, so its input has ended"
    eng.kill9()
    eng.start()
    eng.ok("exec", "box", "touch", "/go")
    assert ended(eng, eids[2]) == 22
    assert inspect(eng, eids[0])["Running"]
    eng.ok("kill", "box")
    assert ended(eng, eids[0]) == 137
    eng.ok("rm", "box")
    wait_for(lambda: os.listdir(eng.exec_root / "execs") == [], "no note about an exec is left")


def test_many_leave_nothing(engine, box):
    """The leak check of the module judges what is left; here it is only many."""
    for _ in range(5):
        engine.ok("exec", box, "true")

    def one(i):
        eid = create(engine, box, "sh", "-c", f"echo {i}; exit {i % 5}", AttachStdout=True, AttachStderr=True)
        _, _, data = engine.http("POST", f"/v1.48/exec/{eid}/start", {"Tty": i % 2 == 0})
        out = data if i % 2 == 0 else frames(data)[1]
        return out.decode(), inspect(engine, eid)["ExitCode"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(one, range(LOOP if not engine.external else 50)))
    assert got == [(f"{i}\n", i % 5) for i in range(len(got))]


@pytest.mark.gantry
def test_many_from_the_base_line(private_daemon):
    import leaks
    eng = private_daemon
    eng.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    for _ in range(20):
        eng.ok("exec", "box", "true")
    before = leaks.settled(eng)
    for i in range(LOOP):
        eid = create(eng, "box", "true", AttachStdout=True)
        assert eng.http("POST", f"/v1.48/exec/{eid}/start", {"Detach": i % 3 == 0})[0] == 200
    leaks.assert_no_growth(eng, before)


@pytest.mark.gantry
def test_one_that_hangs_hangs_alone(engine, box):
    """An exec into a container that is frozen from outside waits; others go on."""
    groups = [p for p in (f"/sys/fs/cgroup/freezer/docker/{engine.inspect(box)['Id']}/freezer.state",) if os.path.exists(p)]
    if not groups:
        pytest.skip("no v1 freezer")
    engine.ok("run", "-d", "--name", "other", "busybox", "sleep", "1000")
    with open(groups[0], "w") as f:
        f.write("FROZEN")
    try:
        client = engine.popen("exec", box, "echo", "thawed", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for i in range(10):
            assert engine.ok("exec", "other", "echo", str(i)) == str(i)
        assert client.poll() is None
    finally:
        with open(groups[0], "w") as f:
            f.write("THAWED")
    assert client.communicate(timeout=60)[0] == b"thawed\n" and client.returncode == 0


# --- a hostile container -------------------------------------------------------------------------

TRACER = r"""
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
/* Attaches to every process it sees as soon as it sees it, and prints what rights each has at that moment. */
static char known[1 << 20];
static void look(int pid) {
    char path[64], line[256];
    int alien = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    if (!f) return;
    printf("PID %d\n", pid);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "Cap", 3) || !strncmp(line, "Seccomp:", 8) || !strncmp(line, "NSpid", 5)) fputs(line, stdout);
    fclose(f);
    for (int fd = 3; fd < 64; fd++) {
        char to[256];
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        ssize_t n = readlink(path, to, sizeof to - 1);
        if (n > 0) { to[n] = 0; printf("FD %d %s\n", fd, to); alien++; }
    }
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    if ((f = fopen(path, "r"))) {
        while (fgets(line, sizeof line, f)) if (strstr(line, "rw-s")) printf("SHARED %s", line);
        fclose(f);
    }
    printf("END %d\n", pid);
    fflush(stdout);
}
int main(void) {
    int me = getpid();
    puts("ready"); fflush(stdout);
    for (;;) {
        for (int pid = 2; pid < 30000; pid++) {
            if (pid == me || known[pid]) continue;
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                known[pid] = 1;
                int status;
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) continue;
                printf("CAUGHT\n");
                look(pid);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            } else if (errno != ESRCH) { known[pid] = 1; printf("DENIED %d %s\n", pid, strerror(errno)); fflush(stdout); }
        }
    }
}
"""


@pytest.fixture(scope="module")
def tracer(workdir):
    source, binary = workdir / "tracer.c", workdir / "tracer"
    source.write_text(TRACER)
    done = subprocess.run(["cc", "-static", "-O2", "-o", binary, source], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no static C compiler: {done.stderr[-200:]}")
    return binary.read_bytes()


def what_a_tracer_sees(engine, tracer, workdir, times, provoke):
    """What a container with SYS_PTRACE finds out about new processes it can see, which `provoke` makes."""
    engine.ok("run", "-d", "--name", "trace", "--cap-add", "SYS_PTRACE", "busybox", "sleep", "1000")
    done = engine.cli("exec", "-i", "trace", "sh", "-c", "cat > /tracer; chmod +x /tracer", input=tracer, text=False)
    assert done.returncode == 0, done.stderr
    allowed = 0xa80425fb | 1 << 19
    seen = workdir / "seen"
    with open(seen, "wb") as file:
        spy = engine.popen("exec", "trace", "/tracer", stdin=subprocess.DEVNULL, stdout=file)
        wait_for(lambda: b"ready" in seen.read_bytes(), "the tracer looks")
        for i in range(10 * times):
            provoke(i)
            # It has to be fast enough to matter.
            if i >= times and seen.read_bytes().count(b"CAUGHT") >= 5:
                break
        engine.ok("kill", "trace")
        spy.wait(60)
    out = seen.read_text()
    assert out.count("CAUGHT") >= 5, "the tracer is fast enough to matter\n" + out[-2000:]
    for block in out.split("CAUGHT\n")[1:]:
        block = block.split("END")[0]
        caps = [int(x, 16) for x in re.findall(r"Cap(?:Prm|Eff|Bnd|Inh|Amb):\s*([0-9a-f]+)", block)]
        assert caps and all(c & ~allowed == 0 for c in caps), block
        assert re.search(r"Seccomp:\s*2", block), block
        assert "SHARED" not in block, "no memory of the keeper's that others write to\n" + block
        # The pipe that says that it has executed is all there may be.
        assert all("pipe:" in line for line in block.splitlines() if line.startswith("FD")), block
    assert engine.ok("run", "--rm", "busybox", "echo", "fine") == "fine"


@pytest.mark.gantry
def test_a_container_that_traces_everything_gains_nothing(engine, tracer, workdir):
    what_a_tracer_sees(engine, tracer, workdir, 100, lambda i: engine.ok("exec", "-e", f"N={i}", "trace", "true"))


@pytest.mark.gantry
def test_a_container_that_is_joined_and_traces_everything_gains_nothing(engine, tracer, workdir):
    """The last process of a launch is the first that can be seen in a PID namespace with others in it."""
    beside = ("--pid", "container:trace", "--network", "none")
    what_a_tracer_sees(engine, tracer, workdir, 40, lambda i: engine.ok("run", "--rm", *beside, "-e", f"N={i}", "busybox", "true"))


# --- docker-py -----------------------------------------------------------------------------------
