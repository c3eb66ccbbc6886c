"""Kernels of Debian's packages: found, fetched with apt, unpacked, never installed.

Two of them: `new` is what Debian sid has, `old` is Debian 12's 6.1. GANTRY_GUEST_KERNEL_NEW and
GANTRY_GUEST_KERNEL_OLD may each name a folder that holds the .deb files (linux-image-*, or
linux-binary-* and linux-modules-*), or be `no`. Otherwise they are fetched into target/guest with an apt
state of its own: sources and packages of the machine stay as they are.
"""
import dataclasses
import lzma
import os
import pathlib
import re
import shutil
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
CACHE = REPO / "target/guest"
SUITES = {"new": "sid", "old": "bookworm"}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
APT_TIMEOUT_S = 300
# In this order, each after what it depends on: what a guest boots with, and what `guest-load` loads on demand.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4", "overlay", "loop")
FURTHER_MODULES = ("xfs", "bfq", "tun", "erofs", "zram", "9pnet_virtio", "9p", "veth", "bridge", "dummy", "quota_v2")


class Unavailable(Exception):
    """Why there is no such kernel here; a reason to skip."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    name: str
    release: str
    image: pathlib.Path
    modules: pathlib.Path

    @property
    def version(self):
        return tuple(int(n) for n in re.match(r"(\d+)\.(\d+)", self.release).groups())

    def module_files(self, wanted):
        """Name and bytes of the modules, dependencies first; those that are built in or unknown are left out."""
        paths = {p.name.split(".ko")[0].replace("-", "_"): p for p in self.modules.rglob("*.ko*")}
        done = {}

        def add(name):
            if name in done or name not in paths:
                return
            path = paths[name]
            data = path.read_bytes()
            data = lzma.decompress(data) if path.suffix == ".xz" else data
            done[name] = None  # before its dependencies: a circle must end
            for dependency in modinfo(data, b"depends"):
                add(dependency)
            done[name] = done.pop(name) or data  # after them

        for name in wanted:
            add(name)
        return [(name + ".ko", data) for name, data in done.items()]


def modinfo(data, key):
    found = re.search(rb"\0" + key + rb"=([^\0]*)\0", data)
    return [n.replace("-", "_") for n in found.group(1).decode().split(",") if n] if found else []


def run(command, **kw):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=APT_TIMEOUT_S,
                          stdin=subprocess.DEVNULL, **kw)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


class Apt:
    """apt with sources and state of its own."""

    def __init__(self, suite):
        self.suite, self.root = suite, CACHE / f"apt-{suite}"
        for tool in ("apt-get", "dpkg-deb"):
            if not shutil.which(tool):
                raise Unavailable(f"no {tool} here to fetch a kernel of Debian with")
        if not os.path.exists(KEYRING):
            raise Unavailable(f"no {KEYRING} to check Debian's packages with")

    def __call__(self, tool, *args, **kw):
        sources = f"deb [signed-by={KEYRING}] {self.mirror()} {self.suite} main\n"
        for folder in ("state/lists/partial", "cache/archives/partial", "empty"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "sources.list").write_text(sources)
        options = {"Dir::Etc::sourcelist": self.root / "sources.list", "Dir::Etc::sourceparts": self.root / "empty",
                   "Dir::Etc::preferencesparts": self.root / "empty", "Dir::State": self.root / "state",
                   "Dir::State::status": "/dev/null", "Dir::Cache": self.root / "cache",
                   "APT::Architecture": "amd64", "APT::Architectures": "amd64", "APT::Sandbox::User": "root",
                   "Acquire::Languages": "none", "Acquire::Check-Valid-Until": "false", "Acquire::Retries": "2"}
        return run([tool, *(f"-o{key}={value}" for key, value in options.items()), *args], **kw)

    @staticmethod
    def mirror():
        """Where this machine's own packages come from, if that is Debian's archive."""
        sites = run(["apt-get", "indextargets", "--format", "$(SITE)"]).splitlines()
        return next((s for s in sites if s.rstrip("/").endswith("/debian")), MIRROR)


def fetch(suite, folder):
    """The packages of the suite's kernel into `folder`."""
    apt = Apt(suite)
    apt("apt-get", "update", "-qq")
    depends = apt("apt-cache", "depends", "linux-image-amd64")
    image = next(iter(re.findall(r"Depends: (linux-image-\S+-amd64)$", depends, re.M)), None)
    if not image:
        raise Unavailable(f"{suite} has no linux-image-amd64")
    # A newer packaging has an empty package that depends on the two with content.
    parts = re.findall(r"Depends: (linux-(?:binary|modules)-\S+)$", apt("apt-cache", "depends", image), re.M)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    apt("apt-get", "download", "-qq", *(parts or [image]), cwd=partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def package(name, suite=SUITES["old"]):
    """A folder with the content of a package of Debian; raises Unavailable."""
    root, debs = CACHE / f"package-{name}", CACHE / f"debs-{name}"
    if root.exists():
        return root
    if os.environ.get("GANTRY_GUEST_KERNEL_NEW"):
        raise Unavailable(f"no {name}: packages of this run are given")
    if not list(debs.glob("*.deb")):
        apt = Apt(suite)
        apt("apt-get", "update", "-qq")
        debs.mkdir(parents=True, exist_ok=True)
        apt("apt-get", "download", "-qq", name, cwd=debs)
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for deb in debs.glob("*.deb"):
        run(["dpkg-deb", "-x", deb, partial])
    partial.rename(root)
    return root


def find(name):
    """The kernel, unpacked; raises Unavailable."""
    given = os.environ.get(f"GANTRY_GUEST_KERNEL_{name.upper()}")
    if given == "no":
        raise Unavailable(f"GANTRY_GUEST_KERNEL_{name.upper()}=no")
    debs = pathlib.Path(given) if given else CACHE / f"debs-{name}"
    if not given and not list(debs.glob("*.deb")):
        fetch(SUITES[name], debs)
    return unpack(name, debs)


def unpack(name, debs):
    root = CACHE / f"kernel-{name}"
    packages = sorted(p for p in debs.glob("linux-*.deb"))
    stamp, mark = "\n".join(f"{p.name} {p.stat().st_size}" for p in packages), root / "packages"
    if not packages:
        raise Unavailable(f"no linux-*.deb in {debs}")
    if not mark.exists() or mark.read_text() != stamp:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for package in packages:
            run(["dpkg-deb", "-x", package, root])
        mark.write_text(stamp)
    image = next((p for p in sorted(root.rglob("vmlinuz*"))), None)
    folder = next((p.parent for p in sorted(root.rglob("modules/*/kernel"))), None)
    if not image or not folder:
        raise Unavailable(f"no kernel image or no modules in {[p.name for p in packages]}")
    return Kernel(name, folder.name, image, folder)
