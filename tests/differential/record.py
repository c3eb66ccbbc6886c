#!/usr/bin/env python3
"""Records what a dockerd answers to every case: record.py unix:///run/docker.sock

The result is checked in (recorded/), so that the comparison can be made without a dockerd.
"""
import json
import sys
import tempfile

import compare
import drive
import run


def main(host):
    with tempfile.TemporaryDirectory() as workdir:
        peer = drive.External(host, workdir)
        documents, facts, version = run.all_cases(peer, sys.stderr)
    assert not any("HARNESS" in document for document in documents.values()), "a case could not be run"
    recording = {"engine": version, "facts": facts, "cases": compare.pack(documents)}
    compare.RECORDED.write_text(json.dumps(recording, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
