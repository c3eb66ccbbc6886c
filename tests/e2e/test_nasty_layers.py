"""Layers that are hostile or odd give the tree that dockerd 28.5 makes of them, or are refused as there.

What dockerd did is in data/nasty_layers.json; `GANTRY_TEST_HOST=... GANTRY_RECORD=1 pytest test_nasty_layers.py` writes it anew.
"""
import io
import json
import os
import pathlib
import struct
import tarfile

import mkimage
import pytest
from mkimage import entry

DATA = pathlib.Path(__file__).parent / "data/nasty_layers.json"
DIR, SYM, HARD, CHAR, BLOCK, FIFO = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                     tarfile.FIFOTYPE)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0).decode("latin-1")
# Where something else is done on purpose, and why.
TWICE = "the later of two entries with one name counts: dockerd refuses the archive"
INTENDED = {
    "duplicates": TWICE,
    "file-then-directory": TWICE,
    "directory-then-file": TWICE,
    "over-a-link": TWICE,
    "whiteout-of-own": "what a layer itself brings is not hidden by its own whiteout: dockerd refuses the archive",
    "hard-links": "a hard link has owner, mode and time of its file: dockerd gives the file those of the link's entry",
    "before-1970": "times before 1970 are kept: dockerd makes them 1970",
    "overlay-attribute": "attributes of the overlay are not taken from an archive",
}
# Times from here to 2050 are of the moment: dockerd gives them to directories that no entry names.
NOW = range(1_750_000_000, 2_524_608_000)


def device(name, kind, major, minor):
    info, data = entry(name, kind, 0o660)
    info.devmajor, info.devminor = major, minor
    return info, data


def timed(item, mtime):
    item[0].mtime = mtime
    return item


def raw(name, data):
    """A member whose name is bytes that are no UTF-8."""
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.size, info.mtime = len(data), 1704067200
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data.ljust(-(-len(data) // 512) * 512, b"\0")


def layers():
    """By name: the layers above the base."""
    one = lambda *items: [mkimage.tar_bytes(items)]  # noqa: E731
    whole = mkimage.tar_bytes([entry("f", data=b"x" * 600)])
    return {
        "long-names": one(entry("n" * 255 + "/" + "m" * 255, data=b"1"), entry("l", SYM, link="t" * 300)),
        "name-too-long": one(entry("n" * 256, data=b"1")),
        "pax-path-and-size": one(entry("short", data=b"12", pax_headers={"path": "from/pax"})),
        "no-utf8": [raw(b"b\xffd", b"1") + raw(b"\xe9/\xe8", b"2") + bytes(1024)],
        "newline-and-space": one(entry("a\nb c", data=b"1"), entry(" ", data=b"2"), entry("\\", data=b"3")),
        "duplicates": one(entry("f", data=b"first"), entry("f", data=b"second"), entry("d", DIR, 0o700), entry("d/x", data=b"1"),
                          entry("d", DIR, 0o711)),
        "file-then-directory": one(entry("x", data=b"1"), entry("x", DIR, 0o755), entry("x/y", data=b"2")),
        "directory-then-file": one(entry("x", DIR, 0o755), entry("x/y", data=b"2"), entry("x", data=b"1")),
        "parent-is-a-file": one(entry("x", data=b"1"), entry("x/y", data=b"2")),
        "no-parents": one(entry("p/q/r", data=b"1")),
        "parent-after-child": one(entry("p/q", data=b"1"), timed(entry("p", DIR, 0o701), 1000)),
        "hard-links": one(entry("a", data=b"1", mode=0o600), entry("b", HARD, link="a"), entry("c", HARD, link="/b"),
                          entry("s", SYM, link="a"), entry("t", HARD, link="s")),
        "hard-link-to-below": one(entry("h", HARD, link="etc/passwd")),
        "hard-link-to-nothing": one(entry("h", HARD, link="missing")),
        "hard-link-out": one(entry("h", HARD, link="../../../../etc/passwd")),
        "hard-link-to-itself": one(entry("h", HARD, link="h")),
        "hard-link-of-a-directory": one(entry("d", DIR, 0o755), entry("h", HARD, link="d")),
        "up": one(entry("../out", data=b"1")),
        "up-inside": one(entry("a/../b", data=b"1")),
        "up-below-a-directory": one(entry("a/../../out", data=b"1")),
        "absolute": one(entry("/absolute", data=b"1")),
        "absolute-up": one(entry("/../absolute", data=b"1")),
        "dot": one(entry("./x", data=b"1"), entry(".", DIR, 0o711), entry("./d/./e", data=b"2")),
        "empty-name": one(entry("", data=b"1")),
        "link-out": one(entry("l", SYM, link="../../../../etc"), entry("a", SYM, link="/etc/passwd")),
        "through-a-link": one(entry("d", DIR, 0o755), entry("l", SYM, link="d"), entry("l/f", data=b"1")),
        "through-a-link-out": one(entry("l", SYM, link="../../../../../../tmp"), entry("l/f", data=b"1")),
        "through-a-link-in-steps": [mkimage.tar_bytes([entry("l", SYM, link="/tmp")]),
                                    mkimage.tar_bytes([entry("l/f", data=b"1")])],
        "link-in-a-circle": one(entry("a", SYM, link="b"), entry("b", SYM, link="a"), entry("a/f", data=b"1")),
        "over-a-link": one(entry("l", SYM, link="etc/passwd"), entry("l", data=b"own")),
        "whiteout": one(entry("etc/.wh.group", data=b""), entry(".wh.home", data=b"")),
        "whiteout-of-everything": one(*[entry(f".wh.{n}", data=b"") for n in (
            "bin", "etc", "home", "root", "tmp", "usr", "var", "proc", "sys", "dev")], entry("alone", data=b"1")),
        "whiteout-of-missing": one(entry(".wh.missing", data=b""), entry("d/.wh.missing", data=b"")),
        "whiteout-of-nothing": one(entry("d", DIR, 0o755), entry("d/.wh.", data=b"")),
        "whiteout-up": one(entry("d", DIR, 0o755), entry("d/.wh...", data=b"")),
        "whiteout-of-own": one(entry("own", data=b"1"), entry(".wh.own", data=b"")),
        "whiteout-then-new": one(entry("etc/.wh.passwd", data=b""), entry("etc/passwd", data=b"new")),
        "whiteout-as-directory": one(entry(".wh.etc", DIR, 0o755)),
        "opaque": one(entry("etc", DIR, 0o755), entry("etc/.wh..wh..opq", data=b""), entry("etc/only", data=b"1")),
        "opaque-last": one(entry("etc", DIR, 0o755), entry("etc/only", data=b"1"), entry("etc/.wh..wh..opq", data=b"")),
        "opaque-root": one(entry(".wh..wh..opq", data=b""), entry("only", data=b"1")),
        "aufs-leftovers": one(entry(".wh..wh.plnk", DIR, 0o700), entry(".wh..wh.aufs", data=b"1"), entry("f", data=b"1")),
        "devices": one(device("c", CHAR, 1, 3), device("b", BLOCK, 259, 1048575), entry("p", FIFO, 0o622)),
        "device-0-0": one(device("c", CHAR, 0, 0), entry("f", data=b"1")),
        "modes": one(entry("s", mode=0o6755, data=b"1"), entry("t", DIR, 0o1777), entry("n", mode=0, data=b"2")),
        "owners": one(entry("f", data=b"1", uid=2 ** 31 - 2, gid=65534), entry("d", DIR, 0o755, uid=7, gid=8)),
        "times": one(timed(entry("old", data=b"1"), 0), timed(entry("future", data=b"1"), 2 ** 33),
                     timed(entry("odd", data=b"1"), 1000.25)),
        "before-1970": one(timed(entry("old", data=b"1"), -1000)),
        "capability": one(entry("f", mode=0o755, data=b"1", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY})),
        "user-attribute": one(entry("f", data=b"1", pax_headers={"SCHILY.xattr.user.note": "x"})),
        "overlay-attribute": one(entry("etc", DIR, 0o755, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})),
        "global-header": [tar_with_global(entry("f", data=b"1"))],
        "sparse-pax": one(entry("f", data=b"1\n0\n1\n".ljust(512, b"\0") + b"x", pax_headers={
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f", "GNU.sparse.realsize": "1"})),
        "unknown-type": one(entry("f", b"Z", data=b"1")),
        "cut": [whole[:700]],
        "no-end": [whole[:1536]],
        "garbage": [b"\x01" * 2048],
        "empty": [bytes(1024)],
        "nothing": [b""],
    }


def tar_with_global(item):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc", "path": "not/me"}) as t:
        t.addfile(item[0], io.BytesIO(item[1]))
    return out.getvalue()


# What is another on every engine and at every start.
VOLATILE = (".dockerenv", "dev", "etc", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf")


def outcome(eng, base, name, above, tmp_path):
    """The tree of a container with these layers, or None where they are refused."""
    tag, path = f"nasty:{name}", tmp_path / "nasty.tar"
    path.write_bytes(mkimage.docker_archive(tag, [base, *above]))
    if eng.cli("load", "-i", str(path)).returncode:
        return None
    try:
        eng.ok("create", "--name", "nasty", tag, "true")
        status, _, data = eng.http("GET", "/v1.48/containers/nasty/export")
        assert status == 200
        tree = {}
        with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as t:
            for m in t:
                if m.name.split("/")[0] in ("bin", "proc", "sys", "dev") or m.name in VOLATILE:
                    continue
                content = t.extractfile(m).read().decode("latin-1") if m.isfile() else ""
                xattrs = {k: v for k, v in m.pax_headers.items() if k == "SCHILY.xattr.security.capability"}
                mtime = "now" if int(m.mtime) in NOW else int(m.mtime)
                fact = [m.type.decode(), m.mode, m.uid, m.gid, mtime, m.linkname, content[:200],
                        [m.devmajor, m.devminor] if m.isdev() else 0, xattrs]
                tree[m.name.encode("utf-8", "surrogateescape").decode("latin-1")] = fact
        return tree
    finally:
        eng.cli("rm", "-f", "nasty")
        eng.cli("rmi", "-f", tag)


def base_layer():
    """Small, and the same on every machine."""
    dirs = [entry(d, DIR, 0o755) for d in ("bin", "etc", "home", "root", "tmp", "usr", "var", "proc", "sys", "dev")]
    return mkimage.tar_bytes([*dirs, entry("etc/passwd", data=b"root:x:0:0::/:/bin/sh\n"), entry("etc/group", data=b"root:x:0:\n"),
                              entry("bin/true", mode=0o755, data=b"true"), entry("home/kept", data=b"kept")])


@pytest.mark.parametrize("name", layers())
def test_a_layer_gives_what_dockerd_makes_of_it(engine, name, tmp_path):
    got = outcome(engine, base_layer(), name, layers()[name], tmp_path)
    if os.environ.get("GANTRY_RECORD"):
        known = json.loads(DATA.read_text()) if DATA.exists() else {}
        known[name] = got
        DATA.parent.mkdir(exist_ok=True)
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in sorted(known.items()))
        DATA.write_text("{\n" + lines + "\n}\n")
        return
    wanted = json.loads(DATA.read_text())[name]
    if name in INTENDED:
        assert got != wanted, "no longer needed"
        return
    if wanted is None or got is None:
        assert (got is None) == (wanted is None), got and {k: v for k, v in got.items() if not k.startswith(("etc", "home"))}
        return
    for path, fact in wanted.items():
        if path in got and fact[4] == "now":
            got[path][4] = "now"
    differs = {k: (got.get(k), wanted.get(k)) for k in got.keys() | wanted.keys() if got.get(k) != wanted.get(k)}
    assert not differs, "ours and dockerd's"
