"""Log drivers that send output to a service: what it gets, and what happens to the container, the log and the rest of the
output when the service is not there, is slow, or the daemon dies."""
import gzip
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import zlib

import pytest

import leaks
import log_receivers as recv
from engine import Daemon, wait_for

pytestmark = pytest.mark.gantry

SCRIPT = ("echo out1; sleep 0.1; echo err1 >&2; sleep 0.1; head -c 20000 /dev/zero | tr '\\0' x; echo; "
          "printf 'a\\tb <&> \\303\\251 \\377\\n'; echo; printf nonl")
LONG = "x" * 16384, "x" * 3616
# Bytes that are no UTF-8 go through as they are, where the service's format can hold them.
SPECIAL = b"a\tb <&> \xc3\xa9 \xff"
# Lines with numbers, so that what is missing, twice or out of order is seen.
COUNT = "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo line $i; {pause}done"


def run(engine, driver, opts, script, *args, name=None):
    flags = [f"--log-opt={k}={v}" for k, v in opts.items()]
    return engine.ok("run", "-d", *(["--name", name] if name else []), f"--log-driver={driver}", *flags, *args,
                     "busybox", "sh", "-c", script)


def count(n, pause=""):
    return COUNT.format(n=n, pause=pause)


def numbers(lines):
    return [int(m[1]) for m in (re.search(r"line (\d+)$", line) for line in lines) if m]


def in_order_at_least_once(found, n):
    """Everything is there; what comes again begins somewhere before and goes on from there."""
    assert set(found) == set(range(1, n + 1)), f"{n - len(set(found))} of {n} are missing"
    seen = 0
    for number in found:
        assert number <= seen + 1, f"{number} after {seen}"
        seen = number


def senders_done(engine):
    wait_for(lambda: engine.debug()["log_senders"]["senders"] == 0, "every log is sent")


# -- options --------------------------------------------------------------------------------------------------------

RECORDED = json.loads((pathlib.Path(__file__).parent / "data/log_options.json").read_text())
BUILT = {"syslog", "gelf", "fluentd", "journald", "splunk", "awslogs", "gcplogs"}


@pytest.mark.parametrize("driver", ["nosuch", *sorted(BUILT - {"gcplogs"})])
def test_options_are_answered_as_dockerd_answers_them(engine, driver):
    """The answers were recorded from dockerd 28.5.2 (no service was there)."""
    wrong = []
    for name, opts, create, start, text in RECORDED:
        if name != driver:
            continue
        spec = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": {"Type": name, "Config": opts}}}
        status, doc = engine.json("POST", "/v1.48/containers/create", spec)
        got = [status, None, doc.get("message")]
        if status == 201 and start:
            status, answer = engine.json("POST", f"/v1.48/containers/{doc['Id']}/start")
            got = [201, status, (answer or {}).get("message")]
        # Where an expression is wrong, is told in other words.
        same_start = re.search("error parsing regexp: ", text or "")
        if same_start and got[:2] == [create, start]:
            continue
        if got != [create, start, text]:
            wrong.append((opts, got, [create, start, text]))
        if "Id" in doc:
            engine.http("DELETE", f"/v1.48/containers/{doc['Id']}?force=1")
    assert not wrong, "\n".join(map(str, wrong))


def test_info_lists_the_drivers(engine):
    listed = engine.json("GET", "/v1.48/info")[1]["Plugins"]["Log"]
    assert listed == sorted(listed)
    assert BUILT | {"json-file", "local"} <= set(listed)


def test_a_log_that_shall_not_be_read_back(engine):
    with recv.udp() as service:
        opts = {"syslog-address": f"udp://127.0.0.1:{service.port}", "cache-disabled": "true"}
        run(engine, "syslog", opts, "echo hi", name="unread")
        wait_for(lambda: service.got, "the line is sent")
    done = engine.cli("logs", "unread")
    assert done.returncode != 0 and "configured logging driver does not support reading" in done.stderr


# -- syslog ---------------------------------------------------------------------------------------------------------

def syslog_bodies(data):
    return [re.sub(rb"^<\d+>[^\[]*\[\d+\]: ", b"", line) for line in data.split(b"\n") if line]


def test_syslog_over_udp(engine):
    with recv.udp() as service:
        box = run(engine, "syslog", {"syslog-address": f"udp://127.0.0.1:{service.port}"}, SCRIPT)
        wait_for(lambda: len(service.got) == 6, lambda: service.got)
    head = rb"<%d>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d " + box[:12].encode() + rb"\[%d\]: "
    for datagram, level in zip(service.got[:2], (30, 27)):
        assert re.match(head % (level, engine.pid), datagram), datagram
    bodies = syslog_bodies(b"".join(service.got))
    assert bodies.pop(4) == SPECIAL
    assert bodies == [b"out1", b"err1", LONG[0].encode(), LONG[1].encode(), b"nonl"]
    assert b"err1" in engine.cli("logs", box, text=False).stderr


def test_syslog_formats_facility_and_tag(engine, tmp_path):
    with recv.tcp() as tcp, recv.unix(tmp_path / "s") as unix, recv.unix(tmp_path / "g", socket.SOCK_DGRAM) as gram:
        opts = {"syslog-facility": "local3", "tag": "{{.Name}}/{{.ID}}"}
        address = f"tcp://127.0.0.1:{tcp.port}"
        box = run(engine, "syslog", opts | {"syslog-address": address, "syslog-format": "rfc3164"}, "echo a", name="s3")
        run(engine, "syslog", {"syslog-address": f"unix://{tmp_path}/s", "syslog-format": "rfc5424"}, "echo a", name="s5")
        run(engine, "syslog", {"syslog-address": f"unixgram://{tmp_path}/g", "syslog-format": "rfc5424micro"}, "echo a")
        wait_for(lambda: tcp.bytes() and unix.bytes() and gram.got, lambda: (tcp.got, unix.got, gram.got))
        host, pid = socket.gethostname(), engine.pid
        assert re.fullmatch(rf"<158>\w+ [ \d]\d [\d:]+ {host} s3/{box[:12]}\[{pid}\]: a\n", tcp.bytes().decode())
        assert re.fullmatch(rf"<30>1 [\d-]+T[\d:]+Z {host} \w{{12}} {pid} \w{{12}} - a\n", unix.bytes().decode())
        assert re.match(rf"<30>1 [\d-]+T[\d:]+\.\d{{6}}Z {host} ", gram.got[0].decode())


def test_syslog_over_tls(engine, tmp_path):
    cert, key, context = recv.certificate(tmp_path)
    with recv.tcp(tls=context) as service:
        opts = {"syslog-address": f"tcp+tls://127.0.0.1:{service.port}", "syslog-format": "rfc5424"}
        run(engine, "syslog", opts | {"syslog-tls-ca-cert": str(cert)}, "echo one; echo two")
        wait_for(lambda: service.bytes().count(b"\n") == 2, lambda: service.got)
        data = service.bytes()
        for body in (b"one", b"two"):
            size, _, rest = data.partition(b" ")
            message, data = rest[:int(size)], rest[int(size):]
            assert message.startswith(b"<30>1 ") and message.endswith(body + b"\n")
        refused = engine.cli("run", "--log-driver=syslog", *(f"--log-opt={k}={v}" for k, v in opts.items()),
                             "busybox", "true")
        assert refused.returncode == 125
        assert "failed to initialize logging driver: tls: " in refused.stderr, refused.stderr
        run(engine, "syslog", opts | {"syslog-tls-skip-verify": "1"}, "echo three")
        wait_for(lambda: b"three" in service.bytes(), lambda: service.got)


@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="no rsyslogd on this machine (Debian: rsyslog)")
def test_rsyslog_understands_it(engine, tmp_path):
    port, out = recv.free_port(), tmp_path / "out"
    conf = tmp_path / "rsyslog.conf"
    conf.write_text(f"""
module(load="imtcp") module(load="imudp")
global(workDirectory="{tmp_path}" parser.escapeControlCharactersOnReceive="off" maxMessageSize="64k")
template(name="t" type="string" string="%syslogfacility-text%|%syslogseverity-text%|%programname%|%procid%|%msg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1") input(type="imudp" port="{port}" address="127.0.0.1")
*.* action(type="omfile" file="{out}" template="t")
""")
    daemon = subprocess.Popen(["rsyslogd", "-n", "-f", conf, "-i", tmp_path / "pid"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def up():
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0
        wait_for(up, "rsyslogd listens")
        opts = {"syslog-facility": "local7", "tag": "app"}
        for form in ("rfc3164", "rfc5424", "rfc5424micro"):
            for kind in ("tcp", "udp"):
                address = {"syslog-address": f"{kind}://127.0.0.1:{port}", "syslog-format": form}
                run(engine, "syslog", opts | address, f"echo {form} by {kind}; echo bad >&2")
        wait_for(lambda: out.exists() and len(out.read_text().splitlines()) == 12, lambda: out.exists() and out.read_text())
        lines = {line.replace(": ", "").replace("| ", "|") for line in out.read_text().splitlines()}
        for form in ("rfc3164", "rfc5424", "rfc5424micro"):
            for kind in ("tcp", "udp"):
                assert f"local7|info|app|{engine.pid}|{form} by {kind}" in lines, lines
        assert f"local7|err|app|{engine.pid}|bad" in lines
    finally:
        daemon.terminate()
        daemon.wait(60)


# -- gelf -----------------------------------------------------------------------------------------------------------

def gelf_messages(datagrams):
    parts, whole = {}, []
    for datagram in datagrams:
        if datagram[:2] == b"\x1e\x0f":
            name, number, total = datagram[2:10], datagram[10], datagram[11]
            chunks = parts.setdefault(name, {})
            chunks[number] = datagram[12:]
            if len(chunks) == total:
                whole.append(b"".join(chunks[i] for i in range(total)))
        else:
            whole.append(datagram)
    plain = [gzip.decompress(m) if m[:2] == b"\x1f\x8b" else zlib.decompress(m) if m[:1] == b"\x78" else m for m in whole]
    return [json.loads(m) for m in plain]


@pytest.mark.parametrize("compression", ["gzip", "zlib", "none", "tcp"])
def test_gelf(engine, compression):
    with (recv.tcp() if compression == "tcp" else recv.udp()) as service:
        kind = "tcp" if compression == "tcp" else "udp"
        opts = {"gelf-address": f"{kind}://127.0.0.1:{service.port}", "labels": "lab,_u", "env": "EV"}
        if kind == "udp":
            opts["gelf-compression-type"] = compression
        box = run(engine, "gelf", opts, SCRIPT, "--label=lab=L1", "--label=_u=U", "--env=EV=e1", name="gelf")

        def messages():
            if kind == "tcp":
                return [json.loads(m) for m in service.bytes().split(b"\0") if m]
            return gelf_messages(service.got)
        wait_for(lambda: len(messages()) == 6, messages)
        got = messages()
    texts = ["out1", "err1", *LONG, "a\tb <&> é \ufffd", "nonl"]
    assert [m["short_message"] for m in got] == texts
    assert [m["level"] for m in got] == [6, 3, 6, 6, 6, 6]
    doc = engine.inspect(box)
    same = {"version": "1.1", "host": socket.gethostname(), "_container_id": box, "_container_name": "gelf",
            "_image_id": doc["Image"], "_image_name": "busybox", "_command": "sh -c " + SCRIPT, "_tag": box[:12],
            "_created": doc["Created"], "_lab": "L1", "_u": "U", "_EV": "e1"}
    for message in got:
        assert {k: v for k, v in message.items() if k not in ("short_message", "level", "timestamp")} == same


# -- fluentd --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ack", [False, True])
def test_fluentd(engine, ack):
    with recv.tcp(on_stream=recv.Fluentd()) as service:
        opts = {"fluentd-address": f"127.0.0.1:{service.port}", "tag": "docker.{{.Name}}", "labels-regex": "^l",
                "fluentd-sub-second-precision": str(ack).lower(), "fluentd-request-ack": str(ack).lower()}
        box = run(engine, "fluentd", opts, SCRIPT, "--label=lab=L1", name="fl")

        def entries():
            return list(recv.fluent_entries(recv.unpack_all(service.bytes())))
        wait_for(lambda: len(entries()) == 7, entries)
        got = entries()
    assert {tag for tag, _, _ in got} == {"docker.fl"}
    records = [record for _, _, record in got]
    assert records[4]["log"].encode(errors="surrogateescape") == SPECIAL
    assert [r["log"] for r in records[:4] + records[5:]] == ["out1", "err1", *LONG, "", "nonl"]
    assert [r["source"] for r in records] == ["stdout", "stderr"] + ["stdout"] * 5
    assert {(r["container_id"], r["container_name"], r["lab"]) for r in records} == {(box, "/fl", "L1")}
    parts = [(r["partial_ordinal"], r["partial_last"]) for r in records[2:4]]
    assert parts == [("1", "false"), ("2", "true")]
    assert records[2]["partial_id"] == records[3]["partial_id"] and records[2]["partial_message"] == "true"
    times = [t for _, t, _ in got]
    assert all(isinstance(t, tuple) == ack for t in times) and times == sorted(times)


def test_fluentd_over_tls_and_unix(engine, tmp_path, workdir):
    with recv.unix(workdir / "f.sock") as service:
        run(engine, "fluentd", {"fluentd-address": f"unix://{workdir}/f.sock"}, "echo a")
        wait_for(lambda: recv.unpack_all(service.bytes()), lambda: service.got)
    _, _, context = recv.certificate(tmp_path)
    with recv.tcp(tls=context) as service:
        # The machine does not know the certificate.
        refused = engine.cli("run", "--log-driver=fluentd", f"--log-opt=fluentd-address=tls://127.0.0.1:{service.port}",
                             "busybox", "true")
        assert refused.returncode == 125 and "failed to initialize logging driver: tls: " in refused.stderr


# -- journald -------------------------------------------------------------------------------------------------------

class JournalDaemon(Daemon):
    """A daemon that sees the journal's socket of the test at its place."""

    def command(self, sock=None):
        script = ('mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && '
                  'mount --bind "$0" /run/systemd/journal && exec "$@"')
        journal = self.workdir / "j"
        journal.mkdir(exist_ok=True)
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(journal), *super().command(sock)]


def journal_fields(entry):
    fields, at = {}, 0
    while at < len(entry):
        end = entry.index(b"\n", at)
        name, equals, value = entry[at:end].partition(b"=")
        at = end + 1
        if not equals:
            size = int.from_bytes(entry[at:at + 8], "little")
            value, at = entry[at + 8:at + 8 + size], at + 8 + size + 1
        fields[name.decode()] = value
    return fields


def test_journald(workdir, image_tar):
    eng = JournalDaemon(workdir / "journal")
    (eng.workdir / "j").mkdir()
    eng.start()
    eng.ok("load", "-i", str(image_tar))
    try:
        done = eng.cli("run", "--log-driver=journald", "busybox", "true")
        assert "failed to initialize logging driver: journald is not enabled on this host" in done.stderr
        with recv.unix(eng.workdir / "j/socket", socket.SOCK_DGRAM) as service:
            opts = {"tag": "T{{.Name}}", "labels": "com.example.lab,big", "env": "EV"}
            box = run(eng, "journald", opts, SCRIPT, "--label=com.example.lab=L\n1", "--env=EV=e1",
                      "--label=big=" + "y" * 100_000, name="jo")
            wait_for(lambda: len(service.got) == 7, lambda: len(service.got))
            got = [journal_fields(e) for e in service.got]
            run(eng, "journald", {"labels": "a,b,c"}, "echo large",
                *(f"--label={n}={'y' * 100_000}" for n in "abc"))  # more than a datagram holds
            wait_for(lambda: len(service.got) == 8, lambda: len(service.got))
            large = journal_fields(service.got[7])
            assert (large["MESSAGE"], len(large["A"]), len(large["C"])) == (b"large", 100_000, 100_000)
        texts = [f["MESSAGE"] for f in got]
        assert texts.pop(4) == SPECIAL
        assert texts == [b"out1", b"err1", LONG[0].encode(), LONG[1].encode(), b"", b"nonl"]
        assert [f["PRIORITY"] for f in got] == [b"6", b"3"] + [b"6"] * 5
        assert [f["CONTAINER_LOG_ORDINAL"] for f in got] == [b"%d" % i for i in range(1, 8)]
        same = {"CONTAINER_ID": box[:12], "CONTAINER_ID_FULL": box, "CONTAINER_NAME": "jo", "CONTAINER_TAG": "Tjo",
                "SYSLOG_IDENTIFIER": "Tjo", "IMAGE_NAME": "busybox", "COM_EXAMPLE_LAB": "L\n1", "EV": "e1"}
        for fields in got:
            assert {k: fields[k].decode() for k in same} == same
        assert [f.get("CONTAINER_PARTIAL_MESSAGE") for f in got[2:4]] == [b"true", None]
        assert [f["CONTAINER_PARTIAL_LAST"] for f in got[2:4]] == [b"false", b"true"]
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT[\d:]+\.\d+Z", got[0]["SYSLOG_TIMESTAMP"])
        assert len(got[0]["CONTAINER_LOG_EPOCH"]) == 64
    finally:
        eng.remove_all()
        eng.stop()
    leaks.assert_nothing_left(eng)


# -- services that are away, slow, or outlived ------------------------------------------------------------------------

def fluentd_opts(port, **more):
    return {"fluentd-address": f"127.0.0.1:{port}", "fluentd-async": "true", "fluentd-retry-wait": "50ms",
            "fluentd-request-ack": "true"} | more


def fluent_numbers(service):
    return numbers(r["log"] for _, _, r in recv.fluent_entries(recv.unpack_all(service.bytes())))


def test_a_service_that_is_away_stops_nobody(engine):
    port = recv.free_port()
    box = run(engine, "fluentd", fluentd_opts(port), count(2000))
    assert engine.ok("wait", box) == "0"
    assert numbers(engine.ok("logs", box).splitlines()) == list(range(1, 2001))
    engine.ok("start", box)  # goes on from where the log was sent, which is its beginning
    assert engine.ok("wait", box) == "0"
    with recv.tcp(port, on_stream=recv.Fluentd()) as service:
        wait_for(lambda: len(fluent_numbers(service)) >= 4000, lambda: len(fluent_numbers(service)))
        assert fluent_numbers(service) == 2 * list(range(1, 2001))
        senders_done(engine)


def test_output_of_a_removed_container_is_sent(engine):
    port = recv.free_port()
    engine.ok("run", "--rm", *(f"--log-opt={k}={v}" for k, v in fluentd_opts(port).items()), "--log-driver=fluentd",
              "busybox", "sh", "-c", count(500))
    with recv.tcp(port, on_stream=recv.Fluentd()) as service:
        wait_for(lambda: len(fluent_numbers(service)) >= 500, lambda: len(fluent_numbers(service)))
        assert fluent_numbers(service) == list(range(1, 501))
        senders_done(engine)


def test_a_service_that_does_not_read_stops_nobody(engine):
    with recv.tcp() as service:
        service.hold.clear()
        opts = {"syslog-address": f"tcp://127.0.0.1:{service.port}"}
        # Sixteen mebibytes: more than sockets hold.
        box = run(engine, "syslog", opts, f"i=0; while [ $i -lt 16 ]; do i=$((i+1)); yes {'z' * 1000} | head -c 1048576; "
                                          "echo; echo line $i; done")
        assert engine.ok("wait", box) == "0"
        service.hold.set()
        wait_for(lambda: service.bytes().endswith(b"line 16\n"), lambda: len(service.bytes()))
        assert numbers(service.lines()) == list(range(1, 17))
        senders_done(engine)


def test_what_rotation_removes_is_counted_and_told(engine):
    port = recv.free_port()
    before = engine.debug()["log_senders"]["lost_segments"]
    opts = fluentd_opts(port, **{"cache-max-size": "100k", "cache-max-file": "2"})
    # More than is held for a sender that is behind.
    box = run(engine, "fluentd", opts, "seq 1 14000 | awk '{printf \"%01000d line %d\\n\", 0, $1}'")
    assert engine.ok("wait", box) == "0"
    with recv.tcp(port, on_stream=recv.Fluentd()) as service:
        wait_for(lambda: b"line 14000" in service.bytes(), lambda: len(service.bytes()))
        senders_done(engine)
        texts = [r["log"] for _, _, r in recv.fluent_entries(recv.unpack_all(service.bytes()))]
    found = numbers(texts)
    assert found == sorted(found) and len(found) < 14_000
    assert any("output is missing here" in text for text in texts)
    assert engine.debug()["log_senders"]["lost_segments"] > before


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_daemon_goes_and_comes_back(private_daemon, how):
    """Numbered lines at a steady rate through several lives of the daemon."""
    eng = private_daemon
    with recv.tcp(on_stream=recv.Fluentd()) as service:
        opts = fluentd_opts(service.port)
        boxes = [run(eng, "fluentd", opts | {"tag": f"box{i}"}, count(400, "usleep 5000; "), "--restart=no")
                 for i in range(3)]

        def of(i):
            entries = recv.fluent_entries(m for got in list(service.got) for m in recv.unpack_all(got))
            return numbers(r["log"] for tag, _, r in entries if tag == f"box{i}")
        for lives in range(1, 4):
            wait_for(lambda: max(of(0), default=0) >= lives * 60, lambda: len(of(0)))
            eng.kill9() if how == "kill" else eng.stop()
            eng.start()
        for box in boxes:
            assert eng.ok("wait", box) == "0"
        for i in range(3):
            wait_for(lambda: max(of(i), default=0) == 400, lambda: len(of(i)))
            in_order_at_least_once(of(i), 400)
        senders_done(eng)


def test_a_rest_is_sent_by_the_next_daemon(private_daemon):
    eng = private_daemon
    port = recv.free_port()
    box = run(eng, "fluentd", fluentd_opts(port), count(1000))
    assert eng.ok("wait", box) == "0"
    eng.stop()
    eng.start()
    with recv.tcp(port, on_stream=recv.Fluentd()) as service:
        wait_for(lambda: len(fluent_numbers(service)) >= 1000, lambda: len(fluent_numbers(service)))
        assert fluent_numbers(service) == list(range(1, 1001))
        senders_done(eng)


def test_a_service_that_comes_back_gets_the_rest(engine):
    """With acknowledgements nothing is lost, whenever the service goes."""
    port = recv.free_port()
    services = []
    run(engine, "fluentd", fluentd_opts(port), count(300, "usleep 3000; "))

    def found():
        return [n for s in services for n in fluent_numbers_by_connection(s)]
    for lives in range(1, 4):
        services.append(recv.tcp(port, on_stream=recv.Fluentd()))
        wait_for(lambda: max(found(), default=0) >= min(80 * lives, 300), lambda: len(found()))
        services[-1].close()
    services.append(recv.tcp(port, on_stream=recv.Fluentd()))
    wait_for(lambda: max(found(), default=0) == 300, lambda: len(found()))
    senders_done(engine)
    services[-1].close()
    in_order_at_least_once(found(), 300)


def fluent_numbers_by_connection(service):
    messages = (m for got in list(service.got) for m in recv.unpack_all(got))
    return numbers(r["log"] for _, _, r in recv.fluent_entries(messages))
