"""gantryd beside a dockerd, case by case: every difference is either on the list of intended ones, or an error.

GANTRY_PEER_HOST=unix:///run/docker.sock pytest tests/differential    (root; both engines on this machine)
"""
import os
import pathlib
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import compare  # noqa: E402
import drive  # noqa: E402
import run  # noqa: E402

PEER = os.environ.get("GANTRY_PEER_HOST")


@pytest.mark.skipif(not PEER, reason="GANTRY_PEER_HOST names no engine to compare with")
def test_same_as_the_peer():
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="gty-diff-", dir="/var/tmp"))
    ours = run.OwnDaemon(workdir)
    ours.start()
    try:
        documents, _, _ = run.all_cases(ours)
    finally:
        ours.stop()
    expected, _, version = run.all_cases(drive.External(PEER, workdir / "peer"))
    intended = compare.Intended()
    lines = run.unlike(documents, expected, intended)
    assert not lines, f"{len(lines)} differences to {version}:\n" + "\n".join(lines)
    assert not intended.stale(), "no longer different:\n" + "\n".join(intended.stale())
