#!/usr/bin/env python3
"""A file system that fails on demand: a directory seen through FUSE, without any library.

    faultfs.py DIRECTORY FAULTS

is mounted over DIRECTORY and hands everything on to what was there. FAULTS is a file of JSON that maps operations
(`write`, `create`, `rename`, ...) to errnos; as long as one is there, that operation fails with it. `open_write` is every
opening that is not for reading only; `torn_write` lets the first half of each write through and fails the next one. With an
errno below 0 the operation, and with it the file system, hangs. Ends when it is unmounted. Only what a log directory needs
is built.
"""
import ctypes
import errno
import json
import os
import struct
import sys
import time

IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
MAX_WRITE = 1 << 17
NAMES = {1: "lookup", 3: "getattr", 4: "setattr", 9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename", 14: "open",
         15: "read", 16: "write", 17: "statfs", 18: "release", 20: "fsync", 25: "flush", 26: "init", 27: "opendir",
         28: "readdir", 29: "releasedir", 30: "fsyncdir", 35: "create", 45: "rename2"}
FORGET, DESTROY, BATCH_FORGET, INTERRUPT = 2, 38, 42, 36
ALIASES = {"rename2": "rename"}


def attributes(st):
    def ns(t):
        return t // 10**9, t % 10**9
    (a, an), (m, mn), (c, cn) = ns(st.st_atime_ns), ns(st.st_mtime_ns), ns(st.st_ctime_ns)
    return ATTR.pack(st.st_ino, st.st_size, st.st_blocks, a, m, c, an, mn, cn, st.st_mode, st.st_nlink, st.st_uid,
                     st.st_gid, 0, st.st_blksize, 0)


class Server:
    def __init__(self, directory, faults):
        self.faults = faults
        self.below = f"/proc/self/fd/{os.open(directory, os.O_PATH | os.O_DIRECTORY)}"
        self.paths, self.ids = {1: "."}, {".": 1}
        self.torn = set()
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"fault", os.fsencode(directory), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    def path(self, node, name=None):
        path = self.paths[node]
        return os.path.normpath(os.path.join(path, os.fsdecode(name)) if name is not None else path)

    def real(self, path):
        return os.path.join(self.below, path)

    def fault(self, operation):
        try:
            with open(self.faults) as f:
                return json.load(f).get(ALIASES.get(operation, operation), 0)
        except (OSError, ValueError):
            return 0

    def serve(self):
        while True:
            try:
                data = os.read(self.device, MAX_WRITE + 4096)
            except OSError as e:
                if e.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # unmounted
            _, opcode, unique, node, *_ = IN_HEADER.unpack_from(data)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            error, answer = 0, b""
            try:
                name = NAMES.get(opcode)
                if name is None:
                    raise OSError(errno.ENOSYS, "not built")
                while (fault := self.fault(name)) < 0:
                    time.sleep(0.01)
                if fault:
                    raise OSError(fault, "a fault")
                answer = getattr(self, name)(node, data[IN_HEADER.size:]) or b""
            except OSError as e:
                error, answer = -e.errno, b""
            os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), error, unique) + answer)
            if opcode == DESTROY:
                return

    def entry(self, path):
        st = os.lstat(self.real(path))
        node = self.ids.get(path)
        if node is None:
            node = self.ids[path] = len(self.paths) + 1
            self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes(st)

    def forget_path(self, path):
        self.ids.pop(path, None)

    def init(self, node, body):
        major, minor, readahead, _ = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, 0, 12, 9, MAX_WRITE, 1, 0, 0, 0)

    def lookup(self, node, body):
        return self.entry(self.path(node, body[:-1]))

    def getattr(self, node, body):
        flags, _, fh = struct.unpack_from("<IIQ", body)
        st = os.fstat(fh) if flags & 1 else os.lstat(self.real(self.path(node)))
        return struct.pack("<QII", 0, 0, 0) + attributes(st)

    def setattr(self, node, body):
        valid, _, fh, size = struct.unpack_from("<IIQQ", body)
        mode, _, uid, gid = struct.unpack_from("<IIII", body, 68)
        real = self.real(self.path(node))
        if valid & 1:
            os.chmod(real, mode & 0o7777)
        if valid & 6:
            os.chown(real, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(fh if valid & 64 else real, size)
        return self.getattr(node, struct.pack("<IIQ", 1 if valid & 64 else 0, 0, fh))

    def mkdir(self, node, body):
        path = self.path(node, body[8:-1])
        os.mkdir(self.real(path), struct.unpack_from("<I", body)[0] & 0o7777)
        return self.entry(path)

    def unlink(self, node, body):
        path = self.path(node, body[:-1])
        os.unlink(self.real(path))
        self.forget_path(path)

    def rmdir(self, node, body):
        path = self.path(node, body[:-1])
        os.rmdir(self.real(path))
        self.forget_path(path)

    def move(self, node, to, names):
        old, new = names.split(b"\0")[:2]
        old, new = self.path(node, old), self.path(to, new)
        os.rename(self.real(old), self.real(new))
        self.forget_path(new)
        if moved := self.ids.pop(old, None):
            self.ids[new], self.paths[moved] = moved, new

    def rename(self, node, body):
        self.move(node, struct.unpack_from("<Q", body)[0], body[8:])

    def rename2(self, node, body):
        to, flags = struct.unpack_from("<QI", body)
        if flags:
            raise OSError(errno.EINVAL, "flags")
        self.move(node, to, body[16:])

    def open(self, node, body):
        flags = struct.unpack_from("<I", body)[0]
        if flags & os.O_ACCMODE != os.O_RDONLY and (fault := self.fault("open_write")):
            raise OSError(fault, "a fault")
        flags &= ~(os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOCTTY)
        return struct.pack("<QIi", os.open(self.real(self.path(node)), flags), 0, 0)

    def create(self, node, body):
        flags, mode, *_ = struct.unpack_from("<IIII", body)
        path = self.path(node, body[16:-1])
        fh = os.open(self.real(path), (flags & ~os.O_APPEND) | os.O_CREAT, mode & 0o7777)
        return self.entry(path) + struct.pack("<QIi", fh, 0, 0)

    def read(self, node, body):
        fh, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(fh, size, offset)

    def write(self, node, body):
        fh, offset, size = struct.unpack_from("<QQI", body)
        if fault := self.fault("torn_write"):
            if fh in self.torn:
                raise OSError(fault, "a fault")
            self.torn.add(fh)
            size = (size + 1) // 2
        else:
            self.torn.discard(fh)
        return struct.pack("<II", os.pwrite(fh, body[40:40 + size], offset), 0)

    def release(self, node, body):
        os.close(struct.unpack_from("<Q", body)[0])

    def fsync(self, node, body):
        os.fsync(struct.unpack_from("<Q", body)[0])

    def flush(self, node, body):
        pass

    def statfs(self, node, body):
        st = os.statvfs(self.below)
        return struct.pack("<QQQQQIIIIIIIIII", st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree, st.f_bsize,
                           st.f_namemax, st.f_frsize, 0, 0, 0, 0, 0, 0, 0)

    def opendir(self, node, body):
        return struct.pack("<QIi", 0, 0, 0)

    def readdir(self, node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        out = b""
        names = [".", "..", *sorted(os.listdir(self.real(self.path(node))))]
        for at, name in list(enumerate(names))[offset:]:
            raw = os.fsencode(name)
            item = struct.pack("<QQII", at + 1, at + 1, len(raw), 0) + raw
            item += bytes(-len(item) % 8)
            if len(out) + len(item) > size:
                break
            out += item
        return out

    def releasedir(self, node, body):
        pass

    def fsyncdir(self, node, body):
        pass


if __name__ == "__main__":
    server = Server(sys.argv[1], sys.argv[2])
    print("mounted", flush=True)
    server.serve()
