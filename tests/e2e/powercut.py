#!/usr/bin/env python3
"""What a power cut leaves of a directory, at each step of a process that works on it. As root, on x86-64 and arm64.

    powercut.py PID ROOT OUT [NTH]

follows the threads of PID (ptrace) and models what is durable of ROOT: the content of a file as it was when its fsync
began, the names of a directory likewise; all else is lost. After every sync and every change of a name it writes two
states into OUT, if they are new: `lost` has what is durable, and nothing else; `named` has every name there is, with
the durable content of its file (none, if it was never synced), as file systems that write names before data do. With
NTH the process is killed (SIGKILL) instead, when it begins the NTH such call.

A state is a JSON file `<serial>-<model>-<call>`: paths with their modes, and the digest of the content, which is in
`OUT/content`; `OUT/last` names the states of now, `OUT/calls` counts. Everything that is there when it begins counts as
durable. Ends with the process, or at SIGTERM.
"""
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import signal
import stat
import struct
import sys

CALLS = {"x86_64": {"fsync": 74, "fdatasync": 75, "syncfs": 306, "rename": 82, "renameat": 264, "renameat2": 316,
                    "link": 86, "linkat": 265, "unlink": 87, "unlinkat": 263, "mkdir": 83, "mkdirat": 258, "rmdir": 84},
         "aarch64": {"fsync": 82, "fdatasync": 83, "syncfs": 267, "renameat": 38, "renameat2": 276, "linkat": 37,
                     "unlinkat": 35, "mkdirat": 34}}.get(platform.machine(), {})
SYNCS = ("fsync", "fdatasync", "syncfs")
CONT, SYSCALL, SEIZE, INTERRUPT, LISTEN, SYSCALL_INFO = 7, 24, 0x4206, 0x4207, 0x4208, 0x420E
TRACESYSGOOD, TRACECLONE, WALL = 1, 8, 0x40000000
EVENT_STOP, GET_VERSION = 128, 0x80087601
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, tid, addr=0, data=0):
    if libc.ptrace(request, tid, addr, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


class Model:
    def __init__(self, root, out):
        self.root, self.out = root, out
        self.files, self.dirs = {}, {}
        self.seen, self.last, self.serial = {}, {}, 0
        os.makedirs(f"{out}/content")
        self.everything()
        self.emit("begin")

    def ident(self, path):
        """A file, and not the next one that gets its inode."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            version = fcntl.ioctl(fd, GET_VERSION, bytes(8))
            return os.fstat(fd).st_ino, int.from_bytes(version, "little")
        finally:
            os.close(fd)

    def keep(self, path):
        with open(path, "rb") as f:
            data = f.read()
        name = hashlib.sha256(data).hexdigest()
        if not os.path.exists(f"{self.out}/content/{name}"):
            with open(f"{self.out}/content/{name}", "wb") as f:
                f.write(data)
        return name

    def names(self, path):
        """name -> (mode, identity), of directories and files."""
        found = {}
        for name in os.listdir(path):
            try:
                mode = os.lstat(f"{path}/{name}").st_mode
                if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                    found[name] = mode, self.ident(f"{path}/{name}")
            except FileNotFoundError:
                pass
        return found

    def everything(self, path=None):
        path = path or self.root
        names = self.dirs[self.ident(path)] = self.names(path)
        for name, (mode, ident) in names.items():
            if stat.S_ISDIR(mode):
                self.everything(f"{path}/{name}")
            else:
                self.files[ident] = self.keep(f"{path}/{name}")

    def before(self, call, tid, fd):
        """What a sync that begins now will make durable."""
        try:
            path = os.readlink(f"/proc/{tid}/fd/{fd}")
            if path != self.root and not path.startswith(self.root + "/"):
                return None
            if call == "syncfs":
                return call, None, None
            link = f"/proc/{tid}/fd/{fd}"
            mode = os.stat(link).st_mode
            if stat.S_ISDIR(mode):
                return "dir", self.ident(path), self.names(path)
            handle = os.open(link, os.O_RDONLY)
            try:
                version = fcntl.ioctl(handle, GET_VERSION, bytes(8))
            finally:
                os.close(handle)
            return "file", (os.stat(link).st_ino, int.from_bytes(version, "little")), self.keep(link)
        except FileNotFoundError:
            return None

    def after(self, synced):
        kind, ident, what = synced
        if kind == "syncfs":
            self.everything()
        elif kind == "dir":
            self.dirs[ident] = what
        else:
            self.files[ident] = what

    def tree(self, ident, path, at, rows, lost):
        try:
            names = self.dirs.get(ident, {}) if lost else self.names(path)
        except FileNotFoundError:
            return
        for name, (mode, below) in names.items():
            inner = f"{at}{name}"
            if stat.S_ISDIR(mode):
                rows[inner] = [mode & 0o7777, None]
                self.tree(below, f"{path}/{name}", inner + "/", rows, lost)
            else:
                rows[inner] = [mode & 0o7777, self.files.get(below, "")]

    def emit(self, call):
        for model in ("lost", "named"):
            rows = {}
            self.tree(self.ident(self.root), self.root, "", rows, model == "lost")
            text = json.dumps(rows, sort_keys=True)
            if text not in self.seen:
                self.serial += 1
                self.seen[text] = f"{self.serial:04}-{model}-{call}"
                self.write(self.seen[text], text)
            self.last[model] = self.seen[text]
        self.write("last", json.dumps(self.last))

    def write(self, name, text):
        with open(f"{self.out}/.new", "w") as f:
            f.write(text)
        os.rename(f"{self.out}/.new", f"{self.out}/{name}")


class Tracer:
    def __init__(self, pid, root, out, nth):
        self.pid, self.nth, self.count = pid, nth, 0
        self.root, self.out = root, out
        self.by_number = {number: name for name, number in CALLS.items()}
        self.inside = {}
        options = TRACESYSGOOD | TRACECLONE
        for tid in os.listdir(f"/proc/{pid}/task"):
            ptrace(SEIZE, int(tid), 0, options)
            ptrace(INTERRUPT, int(tid))
        self.model = None if nth else Model(root, out)
        print("following", flush=True)

    def run(self):
        while True:
            try:
                tid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                if tid == self.pid:
                    return
                continue
            try:
                self.stopped(tid, os.WSTOPSIG(status), status >> 16)
            except ProcessLookupError:
                pass

    def stopped(self, tid, sig, event):
        if sig == signal.SIGTRAP | 0x80:
            self.syscall(tid)
            ptrace(SYSCALL, tid)
        elif event == EVENT_STOP and sig in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            ptrace(LISTEN, tid)
        else:
            ptrace(SYSCALL, tid, 0, 0 if event else sig)

    def syscall(self, tid):
        info = ctypes.create_string_buffer(96)
        ptrace(SYSCALL_INFO, tid, 96, ctypes.addressof(info))
        if info.raw[0] == 1:
            number, fd = struct.unpack_from("<QQ", info.raw, 24)
            call = self.by_number.get(number)
            if call is None:
                return
            if self.counts(tid, call, fd & 0xFFFFFFFF):
                self.inside[tid] = call, self.model.before(call, tid, fd & 0xFFFFFFFF) if call in SYNCS else None
        elif info.raw[0] == 2 and tid in self.inside:
            call, synced = self.inside.pop(tid)
            if info.raw[32]:
                return
            if call in SYNCS:
                if synced is None:
                    return
                self.model.after(synced)
            self.model.emit(call)

    def counts(self, tid, call, fd):
        """One of the calls that matter, and the process lives on."""
        if call in SYNCS:
            try:
                if not os.readlink(f"/proc/{tid}/fd/{fd}").startswith(self.root + "/"):
                    return False
            except FileNotFoundError:
                return False
        self.count += 1
        if self.count == self.nth:
            os.kill(self.pid, signal.SIGKILL)
        if self.model:
            with open(f"{self.out}/calls", "w") as f:
                f.write(str(self.count))
        return self.model is not None


if __name__ == "__main__":
    Tracer(int(sys.argv[1]), os.path.realpath(sys.argv[2]), sys.argv[3],
           int(sys.argv[4]) if len(sys.argv) > 4 else 0).run()
