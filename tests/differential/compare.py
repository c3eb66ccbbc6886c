"""Differences of two flat documents, and the list of those that are intended."""
import fnmatch
import json
import os
import pathlib
import re

RECORDED = pathlib.Path(__file__).with_name("recorded") / "dockerd-28.5.2.json"
INTENDED = pathlib.Path(__file__).with_name("intended.json")


# What is not compared further once an engine refused and the other did not: the status is the difference.
VERDICTS = ("create.status", "start.status", "HARNESS")


def differences(ours, theirs):
    """PATH -> (ours, theirs); None is absence."""
    found = {path: (ours.get(path), theirs.get(path)) for path in sorted(ours.keys() | theirs.keys())
             if ours.get(path) != theirs.get(path)}
    for verdict in VERDICTS:
        if verdict in found:
            stage = verdict.partition(".")[0] + "."
            return {path: both for path, both in found.items()
                    if path.startswith(stage) or path == verdict or path.startswith("created.") and stage == "start."}
    return found


class Intended:
    """The list of intended.json: each entry names cases and paths by patterns, and says why.

    An entry may give the values, `gantry` and `dockerd`; without them any difference at the path is meant.
    """

    def __init__(self, path=INTENDED):
        self.entries = json.loads(path.read_text())
        for entry in self.entries:
            assert set(entry) <= {"cases", "paths", "reason", "gantry", "dockerd"} and entry["reason"], entry
        self.used = [set() for _ in self.entries]

    def take(self, case, path, ours, theirs):
        """Whether the difference is on the list."""
        found = False
        for index, entry in enumerate(self.entries):
            for cases in entry["cases"]:
                for paths in entry["paths"]:
                    if not fnmatch.fnmatchcase(case, cases) or not fnmatch.fnmatchcase(path, paths):
                        continue
                    if ours == entry.get("gantry", ours) and theirs == entry.get("dockerd", theirs):
                        self.used[index] |= {("case", cases), ("path", paths)}
                        found = True
        return found

    def stale(self):
        """Patterns of cases and paths that no difference was taken by: they have to go."""
        found = []
        for entry, used in zip(self.entries, self.used):
            wanted = {("case", c) for c in entry["cases"]} | {("path", p) for p in entry["paths"]}
            found += [f"{kind} {pattern} ({entry['reason']})" for kind, pattern in sorted(wanted - used)]
        return found


def report(case, found):
    return [f"{case}: {path}\n    gantry:  {ours!r}\n    dockerd: {theirs!r}" for path, (ours, theirs) in found.items()]


def facts(driver, names):
    """What of a machine shows in the answers of every engine on it."""
    groups = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    kernel = os.uname().release.split(".")
    return {
        "kernel": ".".join(kernel[:2]),
        "capabilities": names.caps,
        "resolver": sorted({line.split()[0] for line in names.resolver}),
        "groups": sorted(row[1] for row in groups if row[1].startswith("/sys/fs/cgroup")),
        "devices": [name for name in ("fuse", "kmsg", "loop0", "loop7", "mem", "net") if os.path.exists(f"/dev/{name}")],
    }


# What depends on which fact: cases, paths.
DEPENDING = {
    "kernel": [("*", "group.*"), ("*", "status.*"), ("*", "masked.*"), ("*", "mounts.*"), ("*", "ns.*"), ("*realtime*", "*"),
               ("*blkio*", "*")],
    "capabilities": [("*not-allowed", "*"), ("*above-ours", "*"), ("*", "status.Cap*")],
    "resolver": [("*", "etc/resolv.conf")],
    "groups": [],
    "devices": [("*device*", "*"), ("*blkio*", "*"), ("*", "dev/open.*"), ("bind-dev", "*"), ("privileged*", "dev*")],
}


def depends(case, path, different):
    """Whether the value at a path follows from one of the facts that are different here."""
    path = re.sub(r"^exec\d+\.", "", path)
    pairs = [pair for fact in different for pair in DEPENDING[fact]]
    return any(fnmatch.fnmatchcase(case, cases) and fnmatch.fnmatchcase(path, paths) for cases, paths in pairs)


# Documents that others are recorded as differences to: a life with the probe, one without, one that never began, an exec.
BASES = ("default", "exit-code", "refused-program-missing", "exec-default")


def pack(documents):
    """Each document as its difference to the base that is nearest."""
    packed = {}
    for name, document in documents.items():
        forms = []
        for base in (None, *(BASES[:BASES.index(name)] if name in BASES else BASES)):
            first = documents.get(base, {})
            forms.append({"base": base, "without": sorted(first.keys() - document.keys()),
                          "with": {path: value for path, value in document.items() if value != first.get(path)}})
        packed[name] = min(forms, key=lambda form: len(form["without"]) + len(form["with"]))
    return packed


def unpack(packed):
    documents = {}
    for name in (*BASES, *packed):
        form = packed[name]
        whole = documents[form["base"]] | form["with"] if form["base"] else form["with"]
        documents[name] = {path: value for path, value in whole.items() if path not in form["without"]}
    return documents
