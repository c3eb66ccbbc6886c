"""What a guest boots from: an initramfs with modules, and a root disk with gantryd in it."""
import os
import pathlib
import re
import shutil
import stat
import subprocess

from kernels import FURTHER_MODULES, MODULES

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
PROGRAMS = ("gantryd", "gantry-keeper")
ROOT_DISK_BYTES = 4 << 30  # sparse

# Loads the modules, then goes to the root disk: pivot_root(2) does not work on an initramfs.
INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod /modules/$module || echo "guest: insmod $module failed"; done </modules/order
tries=0
until [ -b /dev/vda ] || [ $tries = 200 ]; do tries=$((tries + 1)); usleep 50000; done
mount -t ext4 -o noatime /dev/vda /root || { echo "guest: no root disk"; poweroff -f; }
for m in dev proc sys; do mount -o move /$m /root/$m; done
exec switch_root /root /bin/busybox init
"""


def cpio(entries):
    """A newc archive of (name, mode, data)."""
    out = bytearray()

    def add(name, mode, data, number):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + encoded)
        out.extend(b"\0" * (-len(out) % 4) + data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (name, mode, data) in enumerate(entries, 1):
        add(name, mode, data, number)
    add("TRAILER!!!", 0, b"", 0)
    return bytes(out)


def initramfs(kernel, busybox):
    program = pathlib.Path(busybox).read_bytes()
    modules = kernel.module_files(MODULES)
    folders = [(d, stat.S_IFDIR | 0o755, b"") for d in ("bin", "dev", "proc", "sys", "root", "modules")]
    applets = [(f"bin/{a}", stat.S_IFLNK | 0o777, b"busybox") for a in
               ("sh", "mount", "insmod", "usleep", "switch_root", "poweroff", "[", "echo")]
    return cpio([*folders, ("bin/busybox", stat.S_IFREG | 0o755, program), *applets,
                 ("init", stat.S_IFREG | 0o755, INIT.encode()),
                 *((f"modules/{name}", stat.S_IFREG | 0o644, data) for name, data in modules),
                 ("modules/order", stat.S_IFREG | 0o644, "".join(n + "\n" for n, _ in modules).encode())])


def libraries(program):
    """Paths of the shared objects that the program is started with."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def stripped(source, target):
    """The program without its debug information, if the machine can do that."""
    if not shutil.which("strip") or subprocess.run(["strip", "-o", target, source]).returncode:
        shutil.copy2(source, target)
    os.chmod(target, 0o755)


def further_modules(folder, kernel):
    """What `guest-load NAME` needs: the modules, and per name a list in the order of loading."""
    (folder / "lib/modules").mkdir(parents=True, exist_ok=True)
    for name in FURTHER_MODULES:
        files = kernel.module_files([name])
        (folder / "lib/modules" / name).write_text("".join(file + "\n" for file, _ in files))
        for file, data in files:
            (folder / "lib/modules" / file).write_bytes(data)


def add_program(source, folder, target):
    """A program and the shared objects that it is started with."""
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    stripped(source, folder / target)
    for library in libraries(source):
        there = folder / library.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists():
            shutil.copy2(library, there)


def root_folder(folder, gantryd, busybox, programs=(), trees=()):
    """The guest's root file system as a folder, with further programs and folders by their places."""
    for name in ("bin", "sbin", "etc", "dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/log", "usr/bin", "mnt",
                 "host"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(busybox, folder / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    for name in PROGRAMS:
        add_program(pathlib.Path(gantryd).with_name(name), folder, f"usr/bin/{name}")
    for target, source in dict(programs).items():
        add_program(source, folder, target)
    for target, source in dict(trees).items():
        shutil.copytree(source, folder / target, symlinks=True, dirs_exist_ok=True)
    for script in (HERE / "guest").iterdir():
        shutil.copy2(script, folder / "sbin" / script.name)
        os.chmod(folder / "sbin" / script.name, 0o755)
    for name, text in {
        "inittab": "::sysinit:/sbin/guest-setup\n::respawn:/bin/nc -ll -p 2300 -e /sbin/guest-agent\n"
                   "::once:/sbin/guest-ready\n",
        "passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hostname": "guest\n",
        "os-release": 'PRETTY_NAME="Guest of a test"\nVERSION_ID="1"\n', "resolv.conf": "nameserver 10.0.2.3\n",
    }.items():
        (folder / "etc" / name).write_text(text)


def make_root_disk(path, work, kernel, gantryd, busybox, **more):
    """An ext4 file system in a sparse file."""
    folder = work / "root"
    root_folder(folder, gantryd, busybox, **more)
    further_modules(folder, kernel)
    make_disk(path, ROOT_DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(folder), str(path)], check=True, capture_output=True)
    shutil.rmtree(folder)


def make_disk(path, size):
    """An empty sparse disk."""
    with open(path, "wb") as f:
        f.truncate(size)
