"""A WebSocket client as small as tests want it: every byte of its frames can be chosen."""
import base64
import hashlib
import os
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def mask(key, data):
    pattern = (key * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pattern, "big")).to_bytes(len(data), "big")


def frame(opcode, data=b"", fin=True, masked=True, rsv=0):
    """One frame of a client."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65536:
        head += struct.pack(">BH", bit | 126, len(data))
    else:
        head += struct.pack(">BQ", bit | 127, len(data))
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + mask(key, data)


def request(path, **replaced):
    """The head of an opening handshake; a header that is replaced by None is left out."""
    headers = {"Host": "d", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode()}
    headers |= {k.replace("_", "-"): v for k, v in replaced.items()}
    lines = [f"GET {path} HTTP/1.1"] + [f"{k}: {v}" for k, v in headers.items() if v is not None]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def accept_of(key):
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


class Client:
    """A connection after its handshake."""

    def __init__(self, engine, path, early=b"", **headers):
        self.sock = engine.connect()
        self.sock.sendall(request(path, **headers) + early)
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer and self._more():
            pass
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1]) if self.head else 0

    def _more(self):
        data = self.sock.recv(1 << 20)
        self.buffer += data
        return data

    def rest(self):
        """Everything until the end of the connection."""
        while self._more():
            pass
        rest, self.buffer = self.buffer, b""
        return rest

    def send(self, opcode, data=b"", **kw):
        self.sock.sendall(frame(opcode, data, **kw))

    def _take(self, n):
        while len(self.buffer) < n:
            if not self._more():
                raise ConnectionError(f"ends within a frame: {self.buffer!r}")
        piece, self.buffer = self.buffer[:n], self.buffer[n:]
        return piece

    def next(self):
        """The next frame: its first byte and the payload; None at the end of the connection."""
        if not self.buffer and not self._more():
            return None
        first, length = self._take(2)
        assert length < 128, "a server masks nothing"
        if length == 126:
            length, = struct.unpack(">H", self._take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self._take(8))
        return first, self._take(length)

    def frames(self):
        while (f := self.next()) is not None:
            yield f

    def data(self, n):
        """`n` bytes of data frames, which must end with a frame."""
        got = b""
        while len(got) < n:
            f = self.next()
            assert f and f[0] & 15 in (TEXT, BINARY), f
            got += f[1]
        assert len(got) == n, (len(got), n)
        return got

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
