"""Execs: `docker exec`, the API behind it, and docker-py's."""
import base64
import concurrent.futures
import hashlib
import json
import os
import re
import select
import socket
import subprocess
import time

import pytest
from conftest import FULL
from engine import read_response, wait_for
from test_tty import Terminal, prompt

IN_A_ROW = 200
BYTES = (256 if FULL else 16) << 20


@pytest.fixture
def box(engine):
    """A container that only waits."""
    engine.ok("run", "-d", "--name", "box", "--label", "l=1", "-e", "FOO=bar", "busybox", "sleep", "1000")
    return "box"


def create(engine, box, *cmd, **more):
    status, doc = engine.json("POST", f"/v1.48/containers/{box}/exec", {"Cmd": list(cmd)} | more)
    assert status == 201, doc
    return doc["Id"]


def start(engine, eid, **more):
    return engine.http("POST", f"/v1.48/exec/{eid}/start", {"Detach": True} | more)


def inspect(engine, eid):
    status, doc = engine.json("GET", f"/v1.48/exec/{eid}/json")
    assert status == 200, doc
    return doc


def ended(engine, eid):
    return wait_for(lambda: not (doc := inspect(engine, eid))["Running"] and doc, f"exec {eid} ends")["ExitCode"]


def frames(data):
    """The payloads of a multiplexed stream by stream number."""
    out = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        out[data[0]] += data[8:8 + size]
        data = data[8 + size:]
    return out


# --- exit codes and messages ---------------------------------------------------------------------

START = "OCI runtime exec failed: exec failed: unable to start container process: "
FAILURES = [
    (["nosuch"], [], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["/nosuch"], [], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    (["/etc/passwd"], [], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], [], 126, 'exec: "/etc": is a directory: permission denied'),
    ([""], [], 127, 'exec: "": executable file not found in $PATH'),
    (["true"], ["-w", "/nowhere"], 127, 'chdir to cwd ("/nowhere") set in config.json failed: no such file or directory'),
    (["true"], ["-w", "/etc/passwd"], 127, 'chdir to cwd ("/etc/passwd") set in config.json failed: not a directory: '
     'Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is '
     'the expected type'),
]


@pytest.mark.parametrize("cmd,flags,code,text", FAILURES)
def test_what_cannot_be_started(engine, box, cmd, flags, code, text):
    done = engine.cli("exec", *flags, box, *cmd)
    assert (done.returncode, done.stdout) == (code, START + text + "\n")
    detached = engine.cli("exec", "-d", *flags, box, *cmd)
    assert (detached.returncode, detached.stderr) == (1, f"Error response from daemon: {START}{text}\n")


def test_exit_codes(engine, box):
    for script, code in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143)]:
        assert engine.cli("exec", box, "sh", "-c", script).returncode == code
    engine.ok("exec", box, "sh", "-c", "echo garbage > /tmp/g; chmod +x /tmp/g")
    done = engine.cli("exec", box, "/tmp/g")
    assert (done.returncode, done.stderr) == (255, "exec /tmp/g: exec format error\n")


def test_refused_requests(engine, box):
    cid = engine.inspect(box)["Id"]

    def post(path, body):
        status, doc = engine.json("POST", path, body)
        return status, doc and doc["message"]

    make = f"/v1.48/containers/{box}/exec"
    assert post(make, {}) == post(make, {"Cmd": []}) == (400, "No exec command specified")
    assert engine.http("POST", make, headers={"Content-Length": "0"})[0] == 400
    assert post(make, {"Cmd": "true"})[0] == 400
    assert post(make, {"Cmd": ["a"], "DetachKeys": "foo-"}) == (500, "Invalid escape keys (foo-) provided")
    assert post(make, {"Cmd": ["a"], "User": "nouser"}) == \
        (400, "unable to find user nouser: no matching entries in passwd file")
    assert post(make, {"Cmd": ["a"], "User": "0:nogr"}) == \
        (400, "unable to find group nogr: no matching entries in group file")
    assert post("/v1.48/containers/nosuch/exec", {"Cmd": ["a"]}) == (404, "No such container: nosuch")
    missing = (404, "No such exec instance: nosuch")
    assert post("/v1.48/exec/nosuch/start", {}) == post("/v1.48/exec/nosuch/resize?h=1&w=1", None) == missing
    assert engine.json("GET", "/v1.48/exec/nosuch/json")[0] == 404
    assert post("/v1.48/exec/nosuch/resize?h=a&w=1", None) == (400, 'invalid resize height "a": invalid syntax')
    eid = create(engine, box, "true")
    assert engine.json("GET", f"/v1.48/exec/{eid[:12]}/json")[0] == 404
    for body, text in [({"WorkingDir": "rel"}, "OCI runtime exec failed: exec failed: Cwd must be an absolute path"),
                       ({"Env": ["=x"]}, START + "invalid environment variable: name cannot be empty")]:
        bad = create(engine, box, "true", **body)
        status, _, data = start(engine, bad)
        assert (status, json.loads(data)["message"], ended(engine, bad)) == (500, text, 128)
    assert start(engine, eid)[0] == 200
    ended(engine, eid)
    again = (409, f"exec command {eid} has already run")
    assert post(f"/v1.48/exec/{eid}/start", {"Detach": True}) == again
    status, headers, data = engine.http("POST", f"/v1.48/exec/{eid}/start", {})
    assert (status, headers["content-type"]) == (200, "application/vnd.docker.raw-stream")
    assert frames(data)[1] == again[1].encode() + b"\r\n"
    assert post(f"/v1.48/exec/{eid}/resize?h=1&w=1", None) == \
        (404, f"NotFound: process does not exist {eid}: not found")
    failed = create(engine, box, "nosuch")
    assert start(engine, failed)[0] == 400
    assert post(f"/v1.48/exec/{failed}/resize?h=1&w=1", None) == (400, "exec process is not started")
    long = create(engine, box, "sleep", "100")
    assert start(engine, long)[0] == 200
    assert post(f"/v1.48/exec/{long}/start", {"Detach": True}) == (409, f"exec command {long} is already running")
    created = create(engine, box, "true")
    engine.ok("pause", box)
    assert post(make, {"Cmd": ["a"]}) == (409, f"Container {box} is paused, unpause the container before exec")
    paused = (409, f"Container {cid} is paused, unpause the container before exec")
    assert post(f"/v1.48/exec/{created}/start", {}) == post(f"/v1.48/exec/{created}/start", {"Detach": True}) == paused
    engine.ok("unpause", box)
    engine.ok("kill", box)
    engine.ok("wait", box)
    assert post(make, {"Cmd": ["a"]}) == (409, f"container {cid} is not running")
    assert post(f"/v1.48/exec/{created}/start", {}) == (404, f"No such exec instance: {created}")
    assert ended(engine, long) == 137, "the container's end ends it"
    engine.ok("rm", box)
    assert engine.json("GET", f"/v1.48/exec/{long}/json")[0] == 404


def test_inspection(engine, box):
    cid = engine.inspect(box)["Id"]
    assert engine.inspect(box)["ExecIDs"] is None
    eid = create(engine, box, "sleep", "100", AttachStdin=True, AttachStderr=True, Tty=True, User="daemon",
                 Privileged=True, DetachKeys="ctrl-a,b")
    want = {"ID": eid, "Running": False, "ExitCode": None,
            "ProcessConfig": {"tty": True, "entrypoint": "sleep", "arguments": ["100"], "privileged": True,
                              "user": "daemon"},
            "OpenStdin": True, "OpenStderr": True, "OpenStdout": False, "CanRemove": False, "ContainerID": cid,
            "DetachKeys": base64.b64encode(b"\x01b").decode(), "Pid": 0}
    status, _, data = engine.http("GET", f"/v1.48/exec/{eid}/json")
    assert (status, data.decode()) == (200, json.dumps(want, separators=(",", ":")) + "\n"), "byte for byte"
    assert engine.inspect(box)["ExecIDs"] == [eid]
    assert start(engine, eid, Tty=True)[0] == 200
    doc = inspect(engine, eid)
    assert doc["Pid"] > 0 and doc == want | {"Running": True, "Pid": doc["Pid"]}
    assert engine.inspect(box)["ExecIDs"] == [eid]
    if not engine.external:
        os.kill(doc["Pid"], 9)
        assert ended(engine, eid) == 137
        assert inspect(engine, eid) == want | {"ExitCode": 137, "Pid": doc["Pid"]}
        assert engine.inspect(box)["ExecIDs"] is None
    quick = create(engine, box, "true")
    assert inspect(engine, quick)["ProcessConfig"] == {"tty": False, "entrypoint": "true", "arguments": [],
                                                       "privileged": False}


def test_events(engine, box):
    since = str(time.time() - 0.001)
    engine.cli("exec", box, "sh", "-c", "exit 3")
    engine.cli("exec", box, "nosuch")
    time.sleep(0.1)
    lines = engine.ok("events", "--since", since, "--until", str(time.time()), "--filter", f"container={box}",
                      "--format", "{{json .}}").splitlines()
    events = [e for e in map(json.loads, lines) if e["Action"].startswith("exec_")]
    assert [e["Action"] for e in events] == ["exec_create: sh -c exit 3", "exec_start: sh -c exit 3", "exec_die",
                                             "exec_create: nosuch ", "exec_start: nosuch "]
    attributes = events[2]["Actor"]["Attributes"]
    assert re.fullmatch("[0-9a-f]{64}", attributes.pop("execID"))
    assert attributes == {"exitCode": "3", "image": "busybox", "l": "1", "name": "box"}


# --- streams -------------------------------------------------------------------------------------

def test_input_round_trip(engine, box):
    data = os.urandom(1 << 20) * (BYTES >> 20)
    done = engine.cli("exec", "-i", box, "sh", "-c", "cat; echo end >&2; exit 9", input=data, text=False)
    assert (done.returncode, done.stderr) == (9, b"end\n")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    # The exec's end comes first: the client's input is thrown away.
    for _ in range(12):
        done = engine.cli("exec", "-i", box, "head", "-c", "5", input=data, text=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, data[:5], b"")
    # Without -i there is no input, and the end comes at once.
    assert engine.ok("exec", box, "cat", input="x") == ""


def test_output_is_whole_and_apart_every_time(engine, box):
    script = "for i in 1 2 3 4 5 6 7 8; do echo out$i; echo err$i >&2; done; exit 7"
    want = ("".join(f"out{i}\n" for i in range(1, 9)).encode(), "".join(f"err{i}\n" for i in range(1, 9)).encode())

    def one(_):
        eid = create(engine, box, "sh", "-c", script, AttachStdout=True, AttachStderr=True)
        status, _, data = engine.http("POST", f"/v1.48/exec/{eid}/start", {})
        got = frames(data)
        doc = inspect(engine, eid)
        return status, (got[1], got[2]), doc["ExitCode"], doc["Running"]

    for i in range(IN_A_ROW):
        assert one(i) == (200, want, 7, False), i
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(40))) == {(200, want, 7, False)}


def test_big_output_to_a_slow_client(engine, box):
    """What was written before the end comes, however late the client takes it."""
    size = 4 << 20
    eid = create(engine, box, "sh", "-c", f"head -c {size} /dev/zero", AttachStdout=True)
    body = b'{"Tty":true}'
    with engine.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"POST /v1.48/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n%s" % (eid.encode(), len(body), body))
        time.sleep(3)
        assert len(read_response(sock)[2]) == size
    assert ended(engine, eid) == 0


def test_output_held_open_by_others_ends_with_the_exec(engine, box):
    before = time.monotonic()
    done = engine.cli("exec", box, "sh", "-c", "echo x; sleep 30 & exit 5")
    assert (done.returncode, done.stdout) == (5, "x\n")
    assert time.monotonic() - before < 15
    # Closed early, the client still waits for the end.
    assert engine.cli("exec", box, "sh", "-c", "exec >&- 2>&-; sleep 1; exit 6").returncode == 6


def test_both_forms_of_hijacking(engine, box):
    for upgrade, version, kind in [(True, "1.48", "multiplexed"), (True, "1.41", "raw"), (False, "1.48", "raw")]:
        eid = create(engine, box, "cat", AttachStdin=True, AttachStdout=True)
        head = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""
        with engine.connect() as sock:
            # Input right behind the request must not be lost (dockerd 28 loses it).
            sock.sendall(b"POST /v%s/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n%s"
                         b"Content-Length: 2\r\n\r\n{}early" % (version.encode(), eid.encode(), head))
            f = sock.makefile("rb")
            status = f.readline()
            assert status == (b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n")
            headers = dict(line.decode().strip().split(": ") for line in iter(f.readline, b"\r\n"))
            assert headers["Content-Type"] == f"application/vnd.docker.{kind}-stream" and "Api-Version" in headers
            sock.sendall(b" late")
            sock.shutdown(socket.SHUT_WR)
            assert frames(f.read())[1] in [b"early late", *[b" late"] * engine.external]
        assert ended(engine, eid) == 0


@pytest.mark.gantry
@pytest.mark.parametrize("cmd", ["echo", "nosuch"])
def test_output_does_not_come_with_the_head(engine, box, cmd):
    """docker-py loses what it reads together with the head, so output waits until the head was taken."""
    eid = create(engine, box, cmd, "hello", AttachStdout=True)
    with engine.connect() as sock:
        sock.sendall(b"POST /v1.48/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 2\r\n\r\n{}" % eid.encode())
        time.sleep(0.3)
        assert sock.recv(65536).endswith(b"\r\n\r\n")
        payload = frames(sock.makefile("rb").read())[1]
    assert payload == b"hello\n" if cmd == "echo" else payload.endswith(b"not found in $PATH\r\n")
    # A client that takes its time holds up only itself.
    eid = create(engine, box, "true", AttachStdout=True)
    with engine.connect() as sock:
        sock.sendall(b"POST /v1.48/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 2\r\n\r\n{}" % eid.encode())
        wait_for(lambda: inspect(engine, eid)["ExitCode"] == 0, "its end")


def test_nobody_attached(engine, box):
    eid = create(engine, box, "sleep", "2")
    status, _, data = engine.http("POST", f"/v1.48/exec/{eid}/start", {})
    assert (status, data, inspect(engine, eid)["Running"]) == (200, b"", True)
    # Framing is what the start says, the terminal what the creation said.
    eid = create(engine, box, "sh", "-c", "echo a; echo b >&2", AttachStdout=True, AttachStderr=True)
    assert engine.http("POST", f"/v1.48/exec/{eid}/start", {"Tty": True})[2] == b"a\n"


def test_hang_up_does_not_end_it(engine, box):
    client = engine.popen("exec", "-i", box, "sh", "-c", "echo up; cat >/dev/null; sleep 1; echo still > /tmp/still",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.wait()
    client.stdin.close()
    client.stdout.close()
    wait_for(lambda: engine.cli("exec", box, "cat", "/tmp/still").stdout == "still\n", "it goes on")


# --- terminals -----------------------------------------------------------------------------------

def test_terminal(engine, box):
    term = Terminal(engine, "exec", "-it", "box", "busybox", "sh", rows=33, cols=77)
    prompt(term)
    wait_for(lambda: (term.send("stty size\n"), term.expect(rb"\n(\d+ \d+)\r\n").group(1) == b"33 77")[1], "its size")
    # More than once: the CLI loses a change that comes before it listens for the signal.
    wait_for(lambda: (term.size(44, 88), term.send("stty size\n"), term.expect(rb"\n(\d+ \d+)\r\n").group(1) == b"44 88")[2], "new size")
    term.send("tty; echo $TERM; sleep 100; echo woken''up\n")
    term.expect(r"/dev/pts/\d+\r\nxterm\r\n")
    time.sleep(0.2)
    term.send(b"\x03")
    term.send("echo int''errupted; exit 12\n")
    term.expect("interrupted")
    assert term.wait() == 12


@pytest.mark.parametrize("flags,keys", [([], b"\x10\x11"), (["--detach-keys", "ctrl-a,x"], b"\x01x")])
def test_detach_keys(engine, box, flags, keys):
    term = Terminal(engine, "exec", "-it", *flags, "box", "sh", "-c", "echo ready; cat; echo went on > /tmp/on")
    term.expect("ready")
    term.send(keys)
    term.wait()
    live = engine.inspect(box)["ExecIDs"]
    assert len(live) == 1 and inspect(engine, live[0])["Running"]


@pytest.mark.gantry
def test_detaching_is_an_event(engine, box):
    """The CLI looks for the keys itself; other clients leave that to the engine (dockerd 28 takes it for a failure)."""
    since = str(time.time() - 0.001)
    eid = create(engine, box, "cat", AttachStdin=True, AttachStdout=True, Tty=True)
    with engine.connect() as sock:
        sock.sendall(b"POST /v1.48/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                     b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 12\r\n\r\n{\"Tty\":true}" % eid.encode())
        f = sock.makefile("rb")
        assert f.readline() == b"HTTP/1.1 101 UPGRADED\r\n"
        sock.sendall(b"a\x10\x11")
        f.read()
    assert inspect(engine, eid)["Running"]

    def seen():
        return "exec_detach" in engine.ok("events", "--since", since, "--until", str(time.time()), "--format",
                                          "{{.Action}}").splitlines()
    wait_for(seen, "the event")


def test_console_size(engine, box):
    for at_create, at_start, want in [([11, 22], None, "11 22"), ([11, 22], [33, 44], "33 44"), (None, [5, 6], "5 6")]:
        eid = create(engine, box, "stty", "size", AttachStdout=True, Tty=True, ConsoleSize=at_create)
        _, _, data = engine.http("POST", f"/v1.48/exec/{eid}/start", {"Tty": True, "ConsoleSize": at_start})
        assert data.decode() == want + "\r\n"


# --- what the process is -------------------------------------------------------------------------

@pytest.mark.gantry
def test_users(engine, box):
    for user, want in [("", "0:0:0"), ("daemon", "1:1:1"), ("1", "1:1:1"), ("77", "77:0:0"), ("77:88", "77:88:88"),
                       ("daemon:0", "1:0:0")]:
        flags = ["-u", user] if user else []
        assert engine.ok("exec", *flags, box, "sh", "-c", "echo $(id -u):$(id -g):$(id -G)") == want, user
    # A user that was made in the container since.
    engine.ok("exec", box, "sh", "-c", "echo late:x:4321:4322::/late:/bin/sh >> /etc/passwd")
    assert engine.ok("exec", "-u", "late", box, "sh", "-c", "echo $(id -u):$(id -g) $HOME") == "4321:4322 /late"
    # Links out of the container stay in it.
    engine.ok("exec", box, "sh", "-c", "mv /etc/passwd /etc/p; ln -s ../../../../../../etc/p /etc/passwd")
    assert engine.ok("exec", "-u", "late", box, "id", "-u") == "4321"


def test_environment(engine, box):
    lines = engine.ok("exec", "-e", "NEW=1", "-e", "FOO=zip", box, "env").splitlines()
    cid = engine.inspect(box)["Id"]
    assert lines == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"HOSTNAME={cid[:12]}",
                     "FOO=zip", "NEW=1", "HOME=/root"]
    assert "TERM=xterm" in engine.ok("exec", "-t", box, "env")
    eid = create(engine, box, "env", AttachStdout=True, Env=["FOO", "HOME=/h", ""])
    assert b"FOO" not in (data := engine.http("POST", f"/v1.48/exec/{eid}/start", {"Tty": True})[2])
    assert b"HOME=/h\n" in data


def test_env_file_and_workdir(engine, box, workdir):
    (workdir / "env").write_text("# a comment\nA=1\nB=two words\n")
    out = engine.ok("exec", "--env-file", str(workdir / "env"), "-w", "/tmp", box, "sh", "-c", "echo $A $B $(pwd)")
    assert out == "1 two words /tmp"
    assert engine.ok("exec", "-w", "/tmp/../etc", box, "pwd") == "/etc"
    engine.ok("run", "-d", "--name", "wd", "-w", "/usr", "-u", "1", "busybox", "sleep", "1000")
    assert engine.ok("exec", "wd", "sh", "-c", "pwd; id -u").split() == ["/usr", "1"]


def status(engine, box, *flags):
    text = engine.ok("exec", *flags, box, "cat", "/proc/self/status")
    return dict(re.split(r":\s*", line, maxsplit=1) for line in text.splitlines())


def test_rights(engine, box):
    plain = status(engine, box)
    assert (plain["CapEff"], plain["CapBnd"], plain["CapInh"]) == \
        ("00000000a80425fb", "00000000a80425fb", "0000000000000000")
    assert (plain["Seccomp"], plain["Seccomp_filters"], plain["NoNewPrivs"]) == ("2", "1", "0")
    assert (plain["SigBlk"], plain["SigIgn"]) == ("0" * 16, "0" * 16)
    user = status(engine, box, "-u", "1000")
    assert (user["CapEff"], user["CapBnd"]) == ("0" * 16, "00000000a80425fb")
    # dockerd: every capability, and the filter stays.
    full = status(engine, box, "--privileged")
    assert int(full["CapEff"], 16) & 0x1ffffffffff == int(full["CapBnd"], 16) and int(full["CapEff"], 16) > 1 << 38
    assert full["Seccomp"] == "2"
    engine.ok("run", "-d", "--name", "tight", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--ulimit",
              "nofile=100:200", "--oom-score-adj", "77", "busybox", "sleep", "1000")
    tight = status(engine, "tight")
    assert (tight["CapBnd"], tight["NoNewPrivs"], tight["Seccomp"]) == ("0" * 16, "1", "2")
    out = engine.ok("exec", "tight", "sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj")
    assert out.split() == ["100", "200", "77"]
    engine.ok("run", "-d", "--name", "wide", "--privileged", "busybox", "sleep", "1000")
    assert status(engine, "wide")["Seccomp"] == "0"


@pytest.mark.gantry
@pytest.mark.parametrize("denied", ["clone", "setsid", "exit_group"])
def test_filters_that_forbid_what_an_exec_needs(engine, workdir, denied):
    profile = workdir / f"{denied}.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": [denied], "action": "SCMP_ACT_ERRNO"}]}))
    engine.ok("run", "-d", "--name", "odd", "--security-opt", f"seccomp={profile}", "busybox", "sleep", "1000")
    for flags in ([], ["-t"]):
        assert status(engine, "odd", *flags)["Seccomp"].strip() == "2"


@pytest.fixture
def py(engine, box):
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=engine.host, timeout=120)
    yield client.containers.get(box)
    client.close()


def test_docker_py_exec_run(py):
    for _ in range(50):
        assert tuple(py.exec_run("echo hi")) == (0, b"hi\n")
    assert tuple(py.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)) == (4, (b"o\n", b"e\n"))
    assert tuple(py.exec_run("true", demux=True)) == (0, (None, None))
    assert py.exec_run("sleep 1", detach=True).exit_code is None
    code, stream = py.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert code is None and b"".join(stream) == b"1\n2\n3\n"
    _, stream = py.exec_run(["sh", "-c", "echo o; echo e >&2"], stream=True, demux=True)
    pairs = list(stream)
    assert b"".join(o or b"" for o, _ in pairs) == b"o\n" and b"".join(e or b"" for _, e in pairs) == b"e\n"
    assert py.exec_run("stty size", tty=True).exit_code == 0
    assert py.exec_run("pwd", workdir="/tmp").output == b"/tmp\n"
    assert py.exec_run(["sh", "-c", "echo $A"], environment={"A": "b"}).output == b"b\n"
    assert py.exec_run("id -u", user="daemon").output == b"1\n"
    assert py.exec_run(["sh", "-c", "echo o; echo e >&2"], stdout=False).output == b"e\n"
    assert py.exec_run(["sh", "-c", "echo o; echo e >&2"], stderr=False).output == b"o\n"
    assert py.exec_run("nosuch").exit_code == 127
    full = py.exec_run("grep CapEff /proc/self/status", privileged=True).output
    assert int(full.split()[1], 16) > 1 << 38


def test_docker_py_socket(py):
    code, sock = py.exec_run("cat", stdin=True, socket=True)
    raw = getattr(sock, "_sock", sock)
    raw.sendall(b"over and out\n")
    raw.shutdown(socket.SHUT_WR)
    data = b""
    while select.select([raw], [], [], 60)[0] and (block := raw.recv(4096)):
        data += block
    assert code is None and frames(data)[1] == b"over and out\n"
    sock.close()


def test_docker_py_low_level(py):
    api = py.client.api
    eid = api.exec_create(py.id, "sh -c 'sleep 1; stty size; exit 3'", tty=True, detach_keys="ctrl-x,x")["Id"]
    stream = api.exec_start(eid, tty=True, stream=True)
    api.exec_resize(eid, height=21, width=43)
    assert b"".join(stream) == b"21 43\r\n"
    doc = api.exec_inspect(eid)
    assert (doc["ExitCode"], doc["Running"], doc["DetachKeys"]) == (3, False, base64.b64encode(b"\x18x").decode())
