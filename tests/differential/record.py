#!/usr/bin/env python3
"""Records what a dockerd answers: record.py unix:///run/docker.sock [CASE...]

The result is checked in (recorded/), so that the comparison can be made without a dockerd. With names (or patterns) of
cases only those are asked again.
"""
import fnmatch
import json
import sys
import tempfile

import cases
import compare
import drive
import run


def main(host, *patterns):
    def wanted(case):
        return not patterns or any(fnmatch.fnmatchcase(case.name, p) for p in patterns)
    with tempfile.TemporaryDirectory() as workdir:
        peer = drive.External(host, workdir)
        documents, facts, version = run.all_cases(peer, sys.stderr, wanted)
    assert not any("HARNESS" in document for document in documents.values()), "a case could not be run"
    if patterns:
        recording = json.loads(compare.RECORDED.read_text())
        assert (recording["engine"], recording["facts"]) == (version, facts), "another engine or machine: record all of it"
        documents = compare.unpack(recording["cases"]) | documents
    names = {case.name for case in cases.CASES}
    packed = compare.pack({name: document for name, document in documents.items() if name in names})
    recording = {"engine": version, "facts": facts, "cases": packed}
    compare.RECORDED.write_text(json.dumps(recording, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
