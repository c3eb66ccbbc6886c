"""What a recorded dockerd 28.5.2 answered to some hundred configurations, and what its containers saw from inside,
compared with this engine (tests/differential, which also has the live comparison).
"""
import json
import os
import pathlib
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "differential"))

import compare  # noqa: E402
import leaks  # noqa: E402
import run  # noqa: E402

pytestmark = pytest.mark.gantry
FEWEST = 300


@pytest.fixture(scope="module")
def recording():
    document = json.loads(compare.RECORDED.read_text())
    if not os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        pytest.skip("the recording is of a machine with cgroup v1")
    return document


@pytest.fixture(scope="module")
def result(recording, workdir):
    engine = run.OwnDaemon(pathlib.Path(tempfile.mkdtemp(prefix="rec-", dir=workdir)))
    engine.start()
    try:
        documents, facts, _ = run.all_cases(engine)
        engine.remove_all()
    finally:
        engine.stop()
    leaks.assert_nothing_left(engine)
    if facts["groups"] != recording["facts"]["groups"]:
        pytest.skip(f"the recording is of a machine with other control groups: {recording['facts']['groups']}")
    return documents, facts


def test_as_recorded(recording, result):
    documents, facts = result
    expected = compare.unpack(recording["cases"])
    assert len(expected) >= FEWEST and expected.keys() == documents.keys()
    different = [fact for fact, value in recording["facts"].items() if facts[fact] != value]
    intended = compare.Intended()
    lines = run.unlike(documents, expected, intended, different)
    assert not lines, f"{len(lines)} differences to dockerd {recording['engine']['Version']}:\n" + "\n".join(lines)
    if not different:
        assert not intended.stale(), "on the list of intended differences, but no longer different:\n" + \
            "\n".join(intended.stale())


def test_the_comparison_sees_a_difference(recording):
    """A changed, a missing and an additional value are each seen, and an entry that is not needed is stale."""
    expected = compare.unpack(recording["cases"])
    assert not compare.differences(expected["memory"], dict(expected["memory"]))
    changed = {**expected["memory"], "status.Seccomp": "0", "new": "x"}
    del changed["umask"]
    assert compare.differences(changed, expected["memory"]).keys() == {"status.Seccomp", "new", "umask"}
    assert compare.Intended().stale()
