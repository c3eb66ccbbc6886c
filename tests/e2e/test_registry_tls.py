"""https, certs.d, insecure registries, mirrors, proxies, and what /info says of them."""
import base64
import json
import pathlib
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading

import leaks
import pytest
import registries
from engine import Daemon
from fakeregistry import FakeRegistry
from registries import pull

pytestmark = [pytest.mark.gantry,
              pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")]


@pytest.fixture
def certificate(tmp_path):
    """An authority of its own and a certificate for this machine's names."""
    def run(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=tmp_path)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt", "-subj",
        "/CN=test authority")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=registry")
    (tmp_path / "ext").write_text(
        f"subjectAltName=IP:127.0.0.1,DNS:reg.invalid\nextendedKeyUsage=serverAuth,clientAuth\n")
    run("x509", "-req", "-in", "own.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out",
        "own.crt", "-extfile", "ext")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.crt", tmp_path / "own.key")
    return tmp_path, context


@pytest.fixture
def start(workdir):
    """Starts daemons with a daemon.json; nothing may be left of them."""
    started = []

    def run(env=None, args=(), **settings):
        root = pathlib.Path(tempfile.mkdtemp(prefix="tls-", dir=workdir))
        (root / "daemon.json").write_text(json.dumps(settings))
        eng = Daemon(root, [f"--config-file={root}/daemon.json", *args])
        eng.extra_env = env or {}
        eng.start()
        started.append(eng)
        return eng
    yield run
    for eng in started:
        eng.stop()
        leaks.assert_nothing_left(eng)


def ends_well(stream):
    assert "Downloaded newer" in stream[-1].get("status", ""), stream


class Proxy:
    """A proxy of HTTP: absolute URLs, and CONNECT. Every host is this machine."""

    def __init__(self, password=None):
        self.password, self.lines, self.stop = password, [], False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.stop = True
        self.listener.close()

    def accept(self):
        while not self.stop:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(4096)
                if not piece:
                    return
                head += piece
            line = head.split(b"\r\n")[0].decode()
            self.lines.append(line)
            if self.password and b"proxy-authorization: basic " + base64.b64encode(
                    self.password.encode()).lower() not in head.lower():
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            method, target, _ = line.split(" ")
            if method == "CONNECT":
                port = int(target.rsplit(":", 1)[1])
            else:
                host, _, path = target.removeprefix("http://").partition("/")
                port = int(host.rsplit(":", 1)[1])
                head = head.replace(target.encode(), b"/" + path.encode(), 1)
                head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
            with socket.create_connection(("127.0.0.1", port)) as server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    server.sendall(head)
                while True:
                    for sock in select.select([client, server], [], [])[0]:
                        data = sock.recv(1 << 16)
                        if not data:
                            return
                        (server if sock is client else client).sendall(data)


def test_https_of_this_machine_needs_no_certificate(certificate, start):
    with FakeRegistry(tls=certificate[1]) as fake:
        fake.image("s/img", "v1", [registries.noise_layer("x", 1000)])
        eng = start()
        ends_well(pull(eng, f"{fake.host}/s/img", "v1")[1])


def test_mirrors_and_certs_d(certificate, start, workdir):
    """Docker's own registry by mirrors: one that lacks it, one with a certificate that certs.d has to know."""
    with FakeRegistry() as empty, FakeRegistry() as mirror:
        layers = [registries.noise_layer("m", 1000)]
        mirror.image("library/img", "v1", layers)
        eng = start(**{"registry-mirrors": [empty.url, mirror.url]})
        status, stream = pull(eng, "img", "v1")
        assert status == 200 and stream[0] == {"status": "Pulling from library/img", "id": "v1"}
        ends_well(stream)
        assert empty.count("/v2/library/img/manifests/v1") == 1
        assert eng.inspect("img:v1")["RepoTags"] == ["img:v1"]
        info = eng.json("GET", "/info")[1]["RegistryConfig"]
        assert info["Mirrors"] == [empty.url, mirror.url] == info["IndexConfigs"]["docker.io"]["Mirrors"]


def test_settings_are_shown(start):
    eng = start(**{"insecure-registries": ["reg.example:5000", "192.0.2.0/24"],
                   "proxies": {"http-proxy": "http://me:secret@p.example:1", "no-proxy": "x.example"}})
    info = eng.json("GET", "/info")[1]
    assert info["HttpProxy"] == "http://xxxxx:xxxxx@p.example:1" and info["NoProxy"] == "x.example"
    assert info["RegistryConfig"]["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8", "192.0.2.0/24"]
    assert info["RegistryConfig"]["IndexConfigs"]["reg.example:5000"]["Secure"] is False


def test_proxies(certificate, start):
    """A host that only the proxy knows, by http (absolute URLs) and https (CONNECT)."""
    layers = [registries.noise_layer("x", 100_000)]
    with FakeRegistry() as plain, FakeRegistry(tls=certificate[1]) as secure:
        proxy = Proxy("me:secret")
        for fake in (plain, secure):
            fake.image("s/img", "v1", layers)
        names = [f"reg.invalid:{fake.host.rsplit(':', 1)[1]}" for fake in (plain, secure)]
        url = f"http://me:secret@127.0.0.1:{proxy.port}"
        eng = start(env={"HTTPS_PROXY": url}, **{"proxies": {"http-proxy": url}, "insecure-registries": names})
        ends_well(pull(eng, f"{names[1]}/s/img", "v1")[1])
        assert proxy.lines and set(proxy.lines) == {f"CONNECT {names[1]} HTTP/1.1"}
        proxy.lines.clear()
        ends_well(pull(eng, f"{names[0]}/s/img", "v1")[1])
        assert f"GET http://{names[0]}/v2/s/img/manifests/v1 HTTP/1.1" in proxy.lines
        proxy.password = "other"
        eng2 = start(**{"proxies": {"http-proxy": url, "https-proxy": url}, "insecure-registries": names})
        status, body = pull(eng2, f"{names[1]}/s/img", "v1")
        assert status == 500, body
        proxy.close()


def test_certificates(certificate, start):
    """A registry that is not this machine's loopback: its authority has to be known."""
    directory, context = certificate
    with FakeRegistry(tls=context) as fake:
        fake.image("s/img", "v1", [registries.noise_layer("x", 1000)])
        proxy = Proxy()
        # By a name that the proxy leads here and that the certificate has.
        name = f"reg.invalid:{fake.host.rsplit(':', 1)[1]}"
        certs = pathlib.Path("/etc/docker/certs.d") / name
        made = [p for p in (certs, *certs.parents) if not p.exists()]
        eng = start(**{"proxies": {"https-proxy": f"http://127.0.0.1:{proxy.port}"}})
        try:
            status, body = pull(eng, f"{name}/s/img", "v1")
            assert (status, body[0]["message"]) == (500, (
                f'Get "https://{name}/v2/": tls: failed to verify certificate: x509: certificate signed by unknown '
                "authority"))
            certs.mkdir(parents=True)
            shutil.copy(directory / "ca.crt", certs / "ca.crt")
            ends_well(pull(eng, f"{name}/s/img", "v1")[1])
            shutil.copy(directory / "own.crt", certs / "client.cert")
            status, body = pull(eng, f"{name}/s/img", "v1")
            assert "missing key client.key for client certificate client.cert" in body[0]["message"]
        finally:
            shutil.rmtree(certs, ignore_errors=True)
            for path in made[1:]:
                if path.exists():
                    path.rmdir()
            proxy.close()
