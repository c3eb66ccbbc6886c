"""Services that containers' output is sent to, as small as they can be: each keeps what it gets, as it came."""
import array
import contextlib
import gzip
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import threading


class Receiver:
    """A listening socket and a thread; `got` is a list of datagrams, or of one growing bytes object per connection."""

    def __init__(self, sock, on_stream=None, tls=None):
        self.sock, self.got, self.on_stream, self.tls = sock, [], on_stream, tls
        self.conns, self.closed, self.hold = [], False, threading.Event()
        self.hold.set()
        threading.Thread(target=self.run, daemon=True).start()

    @property
    def port(self):
        return self.sock.getsockname()[1]

    def run(self):
        with contextlib.suppress(OSError):
            if self.sock.type == socket.SOCK_STREAM:
                while True:
                    conn, _ = self.sock.accept()
                    self.got.append(b"")
                    self.conns.append(conn)
                    threading.Thread(target=self.serve, args=(conn, len(self.got) - 1), daemon=True).start()
            while True:
                self.got.append(self.datagram())

    def datagram(self):
        data, anc, _, _ = self.sock.recvmsg(1 << 20, 256)
        for _, _, raw in anc:
            fds = array.array("i")
            fds.frombytes(raw)
            for fd in fds:  # the journal gets large entries in a memory file
                data = os.pread(fd, os.fstat(fd).st_size, 0)
                os.close(fd)
        return data

    def serve(self, conn, index):
        with contextlib.suppress(OSError):
            if self.tls:
                conn = self.tls.wrap_socket(conn, server_side=True)
                self.conns[index] = conn
            while True:
                self.hold.wait()
                data = conn.recv(1 << 16)
                if not data:
                    break
                self.got[index] += data
                if self.on_stream:
                    self.on_stream(self, conn, index)
        conn.close()

    def bytes(self):
        return b"".join(self.got)

    def lines(self):
        return self.bytes().decode(errors="surrogateescape").splitlines()

    def close(self):
        self.closed = True
        self.hold.set()
        for sock in [self.sock, *self.conns]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("127.0.0.1", 0))
    return Receiver(sock)


def tcp(port=0, **kw):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    return Receiver(sock, **kw)


def unix(path, kind=socket.SOCK_STREAM, **kw):
    pathlib.Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    return Receiver(sock, **kw)


class Web:
    """An HTTP service: `got` is a list of (method, path, headers, body); `answer(method, path, headers, body)` gives a
    status and a document."""

    def __init__(self, answer=lambda *_: (200, {}), port=0, tls=None):
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                headers = {k.lower(): v for k, v in self.headers.items()}
                status, doc = service.answer(self.command, self.path, headers, body)
                service.got.append((self.command, self.path, headers, body))
                data = doc.encode() if isinstance(doc, str) else json.dumps(doc).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            do_GET = do_POST = do_PUT = do_OPTIONS = handle_one

            def log_message(self, *_):
                pass

        self.got, self.answer = [], answer
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def posts(self, word=""):
        return [got for got in list(self.got) if got[0] == "POST" and word in json.dumps(got[2]) + got[1]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def json_objects(text):
    """Objects one after the other, without anything between them."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def certificate(directory):
    """A certificate for 127.0.0.1 that is its own authority: paths of it and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=gantry test",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, key, context


def unpack(data, at=0):
    """One MessagePack object and where the next one begins; IndexError if it is not complete."""
    def take(n):
        nonlocal at
        if at + n > len(data):
            raise IndexError
        at += n
        return data[at - n:at]

    def number(n):
        return int.from_bytes(take(n), "big")

    def items(n):
        nonlocal at
        found = []
        for _ in range(n):
            value, at = unpack(data, at)
            found.append(value)
        return found

    def pairs(n):
        flat = items(2 * n)
        return dict(zip(flat[::2], flat[1::2]))

    head = number(1)
    if head < 0x80:
        value = head
    elif head < 0x90:
        value = pairs(head & 15)
    elif head < 0xa0:
        value = items(head & 15)
    elif head < 0xc0:
        value = take(head & 31).decode(errors="surrogateescape")
    elif head in (0xd9, 0xda, 0xdb):
        value = take(number(1 << (head - 0xd9))).decode(errors="surrogateescape")
    elif head in (0xdc, 0xdd):
        value = items(number(2 << (head - 0xdc)))
    elif head in (0xde, 0xdf):
        value = pairs(number(2 << (head - 0xde)))
    elif head in (0xcc, 0xcd, 0xce, 0xcf):
        value = number(1 << (head - 0xcc))
    elif head in (0xd0, 0xd1, 0xd2, 0xd3):
        value = int.from_bytes(take(1 << (head - 0xd0)), "big", signed=True)
    elif head == 0xd7 and number(1) == 0:
        seconds, nanos = number(4), number(4)
        value = (seconds, nanos)
    else:
        raise ValueError(hex(head))
    return value, at


def unpack_all(data):
    """The complete objects."""
    found, at = [], 0
    with contextlib.suppress(IndexError):
        while at < len(data):
            value, at = unpack(data, at)
            found.append(value)
    return found


def fluent_entries(messages):
    """Records of forward-protocol messages, of both forms: tag, time, record."""
    for message in messages:
        if isinstance(message[1], list):
            yield from ((message[0], t, r) for t, r in message[1])
        else:
            yield message[0], message[1], message[2]


class Fluentd:
    """Answers what wants to be acknowledged, once for each message."""

    def __init__(self):
        self.acked = {}

    def __call__(self, receiver, conn, index):
        messages = unpack_all(receiver.got[index])
        for message in messages[self.acked.get((receiver, index), 0):]:
            chunk = message[-1].get("chunk", "") if len(message) > 2 else ""
            if chunk:
                conn.sendall(b"\x81\xa3ack" + bytes([0xa0 | len(chunk)]) + chunk.encode())
        self.acked[receiver, index] = len(messages)
