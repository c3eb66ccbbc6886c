"""Log drivers that speak HTTP: Splunk, Amazon's and Google's, against services of the test's own."""
import base64
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import time

import pytest

import leaks
import log_receivers as recv
from engine import Daemon, wait_for
from test_log_drivers import LONG, SCRIPT, SPECIAL, count, in_order_at_least_once, numbers, run, senders_done

pytestmark = pytest.mark.gantry
TEXT = SPECIAL.decode(errors="replace")


# -- splunk ---------------------------------------------------------------------------------------------------------

def events(service):
    return [e for _, _, _, body in service.posts() for e in recv.json_objects(body.decode())]


@pytest.mark.parametrize("form", ["inline", "json", "raw"])
def test_splunk_formats(engine, form):
    with recv.Web() as service:
        opts = {"splunk-url": service.url, "splunk-token": "tok", "splunk-format": form, "labels": "lab", "env": "EV"}
        box = run(engine, "splunk", opts, SCRIPT + """; echo; echo '{"a":[1,2]}'""", "--label=lab=L1", "--env=EV=e1")
        wait_for(lambda: len(events(service)) >= 7, lambda: service.got)
        assert engine.ok("wait", box) == "0"
        senders_done(engine)
        assert service.got[0][:2] == ("OPTIONS", "/services/collector/event/1.0")
        assert {(path, head["authorization"]) for _, path, head, _ in service.posts()} == {
            ("/services/collector/event/1.0", "Splunk tok")}
        got = events(service)
    texts = ["out1", "err1", *LONG, TEXT, "", "nonl", '{"a":[1,2]}']
    if form == "raw":
        expected = [f"{box[:12]} EV=e1 lab=L1 {text}" for text in texts if text]
        assert [e["event"] for e in got] == expected
    else:
        expected = texts[:-1] + [json.loads(texts[-1]) if form == "json" else texts[-1]]
        assert [e["event"]["line"] for e in got] == expected
        assert [e["event"]["source"] for e in got] == ["stdout", "stderr"] + ["stdout"] * 6
        assert {(e["event"]["tag"], json.dumps(e["event"]["attrs"])) for e in got} == {
            (box[:12], '{"EV": "e1", "lab": "L1"}')}
    assert {e["host"] for e in got} == {socket.gethostname()}
    assert all(re.fullmatch(r"\d{10}\.\d{6}", e["time"]) for e in got)


def test_splunk_with_everything_else(engine, tmp_path):
    cert, _, context = recv.certificate(tmp_path)
    with recv.Web(tls=context) as service:
        opts = {"splunk-url": service.url, "splunk-token": "tok", "splunk-gzip": "true", "splunk-gzip-level": "9",
                "splunk-source": "src", "splunk-sourcetype": "st", "splunk-index": "ix", "tag": "",
                "splunk-index-acknowledgment": "true", "splunk-capath": str(cert)}
        run(engine, "splunk", opts, "echo hi")
        wait_for(lambda: events(service), lambda: service.got)
        _, _, head, _ = service.posts()[0]
        assert head["content-encoding"] == "gzip" and re.fullmatch(r"[0-9a-f-]{36}", head["x-splunk-request-channel"])
        event = events(service)[0]
        assert event["event"] == {"line": "hi", "source": "stdout"}
        assert (event["source"], event["sourcetype"], event["index"]) == ("src", "st", "ix")
        without = {k: v for k, v in opts.items() if k != "splunk-capath"}
        done = engine.cli("run", "--log-driver=splunk", *(f"--log-opt={k}={v}" for k, v in without.items()), "busybox", "true")
        assert done.returncode == 125 and "tls: " in done.stderr, done.stderr
        run(engine, "splunk", without | {"splunk-insecureskipverify": "true"}, "echo skip")
        wait_for(lambda: len(events(service)) == 2, lambda: service.got)


def test_splunk_that_refuses(engine):
    """A token that is wrong fails the start; a service that is broken for a while gets everything later; events that it
    never takes are dropped and counted."""
    mood = {"status": 403}
    with recv.Web(lambda *_: (mood["status"], {"text": "no"})) as service:
        opts = {"splunk-url": service.url, "splunk-token": "tok"}
        done = engine.cli("run", "--log-driver=splunk", *(f"--log-opt={k}={v}" for k, v in opts.items()), "busybox", "true")
        assert 'splunk: failed to verify connection - 403 Forbidden - {"text": "no"}' in done.stderr
        mood["status"] = 503
        box = run(engine, "splunk", opts | {"splunk-verify-connection": "false"}, count(3000))
        assert engine.ok("wait", box) == "0"
        wait_for(lambda: len(service.posts()) >= 2, lambda: len(service.posts()))
        service.got.clear()
        mood["status"] = 200
        senders_done(engine)
        assert numbers(e["event"]["line"] for e in events(service)) == list(range(1, 3001))
        before = engine.debug()["log_senders"]["dropped_records"]
        mood["status"] = 400
        run(engine, "splunk", opts | {"splunk-verify-connection": "false"}, "echo a; echo b")
        wait_for(lambda: engine.debug()["log_senders"]["dropped_records"] == before + 2, "two records are dropped")
        senders_done(engine)
        # What is beside an event that is refused is not lost with it.
        service.got.clear()
        service.answer = lambda _m, _p, _h, body: (400, {"code": 6}) if b"line 700" in body else (200, {})
        run(engine, "splunk", opts | {"splunk-verify-connection": "false"}, count(999))
        senders_done(engine)
        assert engine.debug()["log_senders"]["dropped_records"] == before + 3
        taken = [e for *_, body in service.posts() if b"line 700" not in body for e in recv.json_objects(body.decode())]
        assert numbers(e["event"]["line"] for e in taken) == [n for n in range(1, 1000) if n != 700]


# -- awslogs --------------------------------------------------------------------------------------------------------

class CloudWatch(recv.Web):
    def __init__(self):
        self.groups, self.streams, self.events, self.fail = {"grp"}, set(), {}, 0
        super().__init__(self.act)

    def act(self, method, path, head, body):
        if method == "PUT" and path == "/latest/api/token":
            return 200, "token"
        if path == "/latest/meta-data/iam/security-credentials/":
            return 200, "role"
        if path == "/latest/meta-data/iam/security-credentials/role":
            return 200, {"AccessKeyId": "IMDS", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
        if path == "/latest/dynamic/instance-identity/document":
            return 200, {"region": "eu-imds-1"}
        doc, action = json.loads(body), head["x-amz-target"].removeprefix("Logs_20140328.")
        assert re.match(r"AWS4-HMAC-SHA256 Credential=\w+/\d{8}/[\w-]+/logs/aws4_request, SignedHeaders=content-type;host;"
                        r"x-amz-date;(x-amz-security-token;)?x-amz-target", head["authorization"])
        key = doc.get("logGroupName"), doc.get("logStreamName")
        if action == "CreateLogGroup":
            self.groups.add(key[0])
        elif key[0] not in self.groups or (action == "PutLogEvents" and key not in self.streams):
            return 400, {"__type": "ResourceNotFoundException", "message": "not there"}
        elif action == "CreateLogStream":
            if key in self.streams:
                return 400, {"__type": "ResourceAlreadyExistsException", "message": "there"}
            self.streams.add(key)
        else:
            if self.fail:
                self.fail -= 1
                return 400, {"__type": "ThrottlingException", "message": "slow down"}
            times = [e["timestamp"] for e in doc["logEvents"]]
            assert times == sorted(times) and len(times) <= 10_000
            self.events.setdefault(key, []).extend(doc["logEvents"])
        return 200, {}

    def texts(self, group, stream):
        return [e["message"] for e in list(self.events.get((group, stream), []))]


class CloudDaemon(Daemon):
    """A daemon with an environment of its own."""

    def __init__(self, root, env):
        super().__init__(root)
        self.extra_env = env


@pytest.fixture
def cloud(workdir, image_tar):
    """Starts daemons with credentials in the environment."""
    started = []

    def start(**env):
        eng = CloudDaemon(pathlib.Path(tempfile.mkdtemp(prefix="cl-", dir=workdir)), env)
        started.append(eng)
        eng.start()
        eng.ok("load", "-i", str(image_tar))
        return eng
    yield start
    for eng in started:
        if not eng.alive():
            eng.start()
        eng.remove_all()
        eng.stop()
        leaks.assert_nothing_left(eng)


KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "SECRET"}


def test_awslogs(cloud):
    eng = cloud(**KEYS)
    with CloudWatch() as service:
        opts = {"awslogs-endpoint": service.url, "awslogs-group": "grp", "awslogs-region": "us-east-1"}
        box = run(eng, "awslogs", opts, SCRIPT)
        wait_for(lambda: len(service.texts("grp", box)) == 5, lambda: service.events)
        # Parts of a line are put together again.
        assert service.texts("grp", box) == ["out1", "err1", "".join(LONG), TEXT, "nonl"]
        first = service.events["grp", box][0]["timestamp"]
        assert abs(first / 1000 - time.time()) < 600

        done = eng.cli("run", "--log-driver=awslogs", *(f"--log-opt={k}={v}" for k, v in opts.items()),
                       "--log-opt=awslogs-group=other", "busybox", "true")
        assert "failed to create Cloudwatch log stream" in done.stderr and "ResourceNotFoundException" in done.stderr
        more = {"awslogs-group": "new", "awslogs-create-group": "true", "awslogs-stream": "str",
                "awslogs-multiline-pattern": "^20"}
        service.fail = 2
        run(eng, "awslogs", opts | more, "echo x; echo '2026 a'; echo cont; echo '2027 b'")
        wait_for(lambda: len(service.texts("new", "str")) == 3, lambda: service.events)
        assert service.texts("new", "str") == ["x\n", "2026 a\ncont\n", "2027 b\n"]

        more = {"awslogs-stream": "date", "awslogs-datetime-format": "\\[%b %d, %Y %H:%M:%S\\]",
                "awslogs-force-flush-interval-seconds": "1"}
        box = run(eng, "awslogs", opts | more, "echo '[Jan 02, 2026 03:04:05] x'; echo y; sleep 600", name="dated")
        # Also while it runs, when nothing more comes.
        wait_for(lambda: service.texts("grp", "date"), lambda: service.events)
        assert service.texts("grp", "date") == ["[Jan 02, 2026 03:04:05] x\ny\n"]
        # What was sent is known as sent, as soon as that is saved.
        saved = eng.data_root / "containers" / box / "local-logs/container.sent"
        wait_for(saved.exists, "how far it was sent is saved")
        eng.kill9()
        eng.start()
        eng.ok("kill", "dated")
        senders_done(eng)
        assert service.texts("grp", "date") == ["[Jan 02, 2026 03:04:05] x\ny\n"]

        run(eng, "awslogs", opts | {"awslogs-stream": "big"}, "yes 'line 7' | head -n 30000")
        wait_for(lambda: len(service.texts("grp", "big")) == 30_000, lambda: len(service.texts("grp", "big")))
        run(eng, "awslogs", opts | {"awslogs-stream": "emf", "awslogs-format": "json/emf"}, "echo '{}'")
        wait_for(lambda: service.texts("grp", "emf") == ["{}"], lambda: service.events)
        assert service.posts("json/emf")


def test_awslogs_with_a_machines_role(cloud):
    with CloudWatch() as service:
        eng = cloud(AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url, HOME="/nonexistent")
        opts = {"awslogs-endpoint": service.url, "awslogs-group": "grp", "awslogs-stream": "role"}
        run(eng, "awslogs", opts, "echo hi")
        wait_for(lambda: service.texts("grp", "role") == ["hi"], lambda: service.events)
        signed = service.posts()[0][2]["authorization"]
        assert "Credential=IMDS/" in signed and "/eu-imds-1/logs/" in signed


def test_awslogs_without_credentials(cloud):
    eng = cloud(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{recv.free_port()}", HOME="/nonexistent")
    done = eng.cli("run", "--log-driver=awslogs", "--log-opt=awslogs-group=g", "busybox", "true")
    assert "cannot determine region for awslogs driver: operation error ec2imds: GetRegion" in done.stderr
    done = eng.cli("run", "--log-driver=awslogs", "--log-opt=awslogs-group=g", "--log-opt=awslogs-region=r", "busybox", "true")
    assert ("failed to create Cloudwatch log stream: operation error CloudWatch Logs: CreateLogStream, get identity: "
            "get credentials: failed to refresh cached credentials, no EC2 IMDS role found") in done.stderr, done.stderr


# -- gcplogs --------------------------------------------------------------------------------------------------------

def google(method, path, head, body):
    """The service, its tokens and the metadata server in one."""
    if path == "/token":
        return 200, {"access_token": "by-key", "expires_in": 3600}
    if path.startswith("/computeMetadata/v1/"):
        assert head["metadata-flavor"] == "Google"
        known = {"project/project-id": "meta-project", "instance/zone": "projects/1/zones/z1", "instance/name": "vm1",
                 "instance/id": "42", "instance/service-accounts/default/token":
                 {"access_token": "by-machine", "expires_in": 3600}}
        return 200, known[path.removeprefix("/computeMetadata/v1/")]
    return 200, {}


def entries(service):
    return [e for _, _, _, body in service.posts("entries:write") for e in json.loads(body)["entries"] if "jsonPayload" in e]


def test_gcplogs_with_a_key(cloud, tmp_path):
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
                   check=True, capture_output=True)
    with recv.Web(google) as service:
        account = tmp_path / "account.json"
        account.write_text(json.dumps({"type": "service_account", "client_email": "a@b", "private_key": key.read_text(),
                                       "private_key_id": "k1", "token_uri": service.url + "/token", "project_id": "p1"}))
        eng = cloud(GOOGLE_APPLICATION_CREDENTIALS=str(account))
        opts = {"gcp-endpoint": service.url, "gcp-log-cmd": "true", "labels": "lab", "gcp-meta-name": "box1"}
        box = run(eng, "gcplogs", opts, SCRIPT, "--label=lab=L1", name="gcp")
        wait_for(lambda: len(entries(service)) == 6, lambda: service.got)
        got = entries(service)
        written = json.loads(service.posts("entries:write")[-1][3])
        assert written["logName"] == "projects/p1/logs/gcplogs-docker-driver"
        assert service.posts("entries:write")[-1][2]["authorization"] == "Bearer by-key"
        form = service.posts("/token")[0][3].decode()
    assert [e["jsonPayload"]["message"] for e in got] == ["out1", "err1", *LONG, TEXT, "nonl"]
    about = got[0]["jsonPayload"]["container"]
    assert (about["id"], about["name"], about["command"], about["metadata"]) == (box, "gcp", "sh -c " + SCRIPT, {"lab": "L1"})
    assert got[0]["jsonPayload"]["instance"] == {"name": "box1"}
    assert len({e["insertId"] for e in got}) == 6
    head, claims, signature = form.split("assertion=")[1].split(".")
    pad = lambda text: base64.urlsafe_b64decode(text + "==")  # noqa: E731
    assert json.loads(pad(claims))["scope"] == "https://www.googleapis.com/auth/logging.write"
    (tmp_path / "sig").write_bytes(pad(signature))
    public = tmp_path / "public.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    subprocess.run(["openssl", "dgst", "-sha256", "-verify", public, "-signature", tmp_path / "sig"],
                   input=f"{head}.{claims}".encode(), check=True, capture_output=True)


def test_gcplogs_on_a_machine_of_google(cloud):
    with recv.Web(google) as service:
        eng = cloud(GCE_METADATA_HOST=f"127.0.0.1:{service.port}")
        run(eng, "gcplogs", {"gcp-endpoint": service.url}, "echo hi")
        wait_for(lambda: entries(service), lambda: service.got)
        head = service.posts("entries:write")[-1]
        assert head[2]["authorization"] == "Bearer by-machine"
        assert json.loads(head[3])["logName"].startswith("projects/meta-project/")
        assert entries(service)[0]["jsonPayload"]["instance"] == {"zone": "z1", "name": "vm1", "id": "42"}


def test_gcplogs_elsewhere(cloud):
    eng = cloud(GCE_METADATA_HOST=f"127.0.0.1:{recv.free_port()}")
    done = eng.cli("run", "--log-driver=gcplogs", "busybox", "true")
    assert "failed to initialize logging driver: No project was specified and couldn't read project" in done.stderr
    done = eng.cli("run", "--log-driver=gcplogs", "--log-opt=gcp-project=p", "busybox", "true")
    assert "unable to connect or authenticate with Google Cloud Logging: google: could not find default credentials" in done.stderr
    done = eng.cli("run", "--log-driver=gcplogs", "--log-opt=bogus=p", "busybox", "true")
    assert '"bogus" is not a valid option for the gcplogs driver' in done.stderr


# -- the daemon dies ------------------------------------------------------------------------------------------------

def test_held_lines_survive_the_daemon(cloud):
    """Lines that belong together are sent as one, and none is lost, when the daemon dies between them."""
    eng = cloud(**KEYS)
    with CloudWatch() as service:
        opts = {"awslogs-endpoint": service.url, "awslogs-group": "grp", "awslogs-region": "r", "awslogs-stream": "s",
                "awslogs-multiline-pattern": "^begin", "awslogs-force-flush-interval-seconds": "1"}
        script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo begin; echo line $i; usleep 10000; done"
        box = run(eng, "awslogs", opts, script)
        for lives in range(1, 3):
            wait_for(lambda: len(set(service.texts("grp", "s"))) > lives * 80, lambda: len(service.texts("grp", "s")))
            eng.kill9()
            eng.start()
        assert eng.ok("wait", box) == "0"
        senders_done(eng)
        found = numbers(line for text in service.texts("grp", "s") for line in text.splitlines())
        in_order_at_least_once(found, 300)
