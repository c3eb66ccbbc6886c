"""Differences of two flat documents, and the list of those that are intended."""
import fnmatch
import json
import pathlib

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
