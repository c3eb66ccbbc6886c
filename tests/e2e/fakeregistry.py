"""A registry in memory that can be told to misbehave: wrong digests, cut and slow answers, refusals, tokens."""
import base64
import hashlib
import http.server
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

import mkimage
import registries
from registries import digest

TOKEN = "good-token"
IDENTITY = "identity-token"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "fake"

    def log_message(self, *_):
        pass

    @property
    def fake(self):
        return self.server.fake

    def answer(self, status, body=b"", media="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", media)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, message, **headers):
        document = {"errors": [{"code": code, "message": message, "detail": None}]}
        self.answer(status, json.dumps(document).encode(), **headers)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        fake, path = self.fake, self.path
        with fake.lock:
            fake.requests.append(f"{self.command} {path}")
            fake.headers.append({name.title(): value for name, value in self.headers.items()})
        try:
            if path.split("?")[0] == "/token":
                return self.token()
            for pattern, hook in list(fake.hooks):
                if re.search(pattern, f"{self.command} {path}") and hook(self) is not False:
                    return None
            if not self.allowed():
                return None
            self.serve()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

    def credentials(self):
        kind, _, rest = self.headers.get("Authorization", "").partition(" ")
        return kind.lower(), rest

    def allowed(self):
        fake = self.fake
        kind, rest = self.credentials()
        if fake.auth == "basic":
            if kind == "basic" and base64.b64decode(rest).decode() == fake.password:
                return True
            self.body()
            self.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="fake"')
            return False
        if fake.auth == "token":
            if kind == "bearer" and rest == fake.token:
                return True
            self.body()
            self.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=(
                f'Bearer realm="{fake.url}/token",service="fake.service"'))
            return False
        return True

    def token(self):
        fake = self.fake
        if self.command == "POST":
            form = urllib.parse.parse_qs(self.body().decode())
            fake.token_requests.append(form)
            good = form.get("refresh_token") == [IDENTITY]
        else:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            fake.token_requests.append(query)
            kind, rest = self.credentials()
            good = kind == "basic" and base64.b64decode(rest).decode() == fake.password
        if not good:
            return self.answer(401, b'{"details":"incorrect username or password"}')
        document = {"token": fake.token, "expires_in": 300}
        if self.command == "GET" and "offline_token" in self.path:
            document["refresh_token"] = IDENTITY
        return self.answer(200, json.dumps(document).encode())

    def serve(self):
        path = self.path.split("?")[0]
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if path in ("/v2/", "/v2"):
            return self.answer(200, b"{}")
        for kind in ("manifests", "tags", "blobs"):
            found = re.fullmatch(rf"/v2/(.+)/{kind}/(.+?)/?", path)
            if found:
                return getattr(self, kind)(*found.groups(), query)
        return self.error(404, "NAME_UNKNOWN", "repository name not known to registry")

    def tags(self, repo, _what, _query):
        tags = sorted(t for r, t in self.fake.manifests if r == repo and not t.startswith("sha256:"))
        self.answer(200, json.dumps({"name": repo, "tags": tags}).encode())

    def manifests(self, repo, which, _query):
        fake = self.fake
        if self.command == "PUT":
            data = self.body()
            fake.put_manifest(repo, which, data, self.headers["Content-Type"])
            return self.answer(201, Docker_Content_Digest=digest(data))
        if (repo, which) not in fake.manifests:
            return self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        data, media = fake.manifests[repo, which]
        return self.answer(200, data, media, Docker_Content_Digest=digest(data))

    def blobs(self, repo, which, query):
        fake = self.fake
        if which.startswith("uploads"):
            return self.upload(repo, which.removeprefix("uploads").strip("/"), query)
        if which not in fake.blobs or (fake.strict and (repo, which) not in fake.linked):
            return self.error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        data, status, extra = fake.blobs[which], 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and fake.ranges:
            start, whole = int(wanted[1]), len(data)
            if start >= whole:
                return self.answer(416)
            data, status = data[start:], 206
            extra = {"Content_Range": f"bytes {start}-{whole - 1}/{whole}"}
        return self.answer(status, data, "application/octet-stream", Docker_Content_Digest=which, **extra)

    def upload(self, repo, ident, query):
        fake = self.fake
        where = f"/v2/{repo}/blobs/uploads/"
        if self.command == "POST":
            data = self.body()
            if "mount" in query:
                blob, source = query["mount"][0], query.get("from", [""])[0]
                if (source, blob) in fake.linked:
                    fake.linked.add((repo, blob))
                    return self.answer(201, Location=f"/v2/{repo}/blobs/{blob}", Docker_Content_Digest=blob)
            if "digest" in query:
                return self.finish(repo, data, query["digest"][0])
            ident = uuid.uuid4().hex
            fake.uploads[ident] = b""
            return self.answer(202, Location=f"{where}{ident}?_state=x", Range="0-0", Docker_Upload_UUID=ident)
        data = self.body()
        if ident not in fake.uploads:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        fake.uploads[ident] += data
        if self.command == "PATCH":
            have = len(fake.uploads[ident])
            return self.answer(202, Location=f"{where}{ident}?_state={have}", Range=f"0-{have - 1}")
        return self.finish(repo, fake.uploads.pop(ident), query["digest"][0])

    def finish(self, repo, data, wanted):
        if digest(data) != wanted:
            return self.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.fake.blobs[wanted] = data
        self.fake.linked.add((repo, wanted))
        return self.answer(201, Location=f"/v2/{repo}/blobs/{wanted}", Docker_Content_Digest=wanted)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # clients hang up; that is what is tested


class FakeRegistry:
    """`hooks`: pairs of a pattern for "METHOD path" and a function of the handler that answers (or returns False)."""

    def __init__(self, auth=None, password="user:secret", tls=None):
        self.auth, self.password, self.token = auth, password, TOKEN
        self.blobs, self.manifests, self.uploads, self.linked = {}, {}, {}, set()
        self.hooks, self.requests, self.headers, self.token_requests = [], [], [], []
        self.ranges, self.strict, self.lock = True, False, threading.Lock()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.fake = self
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def on(self, pattern, hook):
        self.hooks.append((pattern, hook))

    def put_blob(self, repo, data):
        self.blobs[digest(data)] = data
        self.linked.add((repo, digest(data)))
        return {"digest": digest(data), "size": len(data)}

    def put_manifest(self, repo, tag, data, media):
        self.manifests[repo, tag] = self.manifests[repo, digest(data)] = (data, media)
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    def image(self, repo, tag, layers, compression="gzip", change=lambda manifest: None, **config):
        """Puts an image there; `change` may spoil its manifest."""
        document = json.loads(mkimage.image_config(layers))
        document.update(config)
        packed = [mkimage.compress(layer, compression) for layer in layers]
        kind = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
        manifest = {
            "schemaVersion": 2, "mediaType": registries.OCI_MANIFEST,
            "config": {"mediaType": registries.OCI_CONFIG, **self.put_blob(repo, json.dumps(document).encode())},
            "layers": [{"mediaType": f"application/vnd.oci.image.layer.v1.tar{kind}", **self.put_blob(repo, p)}
                       for p in packed]}
        change(manifest)
        self.put_manifest(repo, tag, json.dumps(manifest).encode(), registries.OCI_MANIFEST)
        return manifest

    def count(self, pattern):
        return len([r for r in self.requests if re.search(pattern, r)])
