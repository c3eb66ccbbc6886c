"""Runs cases on one engine."""
import cases
import compare
import drive
import normal
import refused  # noqa: F401 (adds its cases)
from engine import Daemon

# A mount namespace in which the files of the engine lie on a shared mount: as dockerd makes it for its own, and most
# systems have it anyway.
SHARED = 'mount --bind "$0" "$0" && mount --make-shared "$0" && exec "$@"'


class OwnDaemon(Daemon):
    """A gantryd in a mount namespace of its own, so that the mounts of the cases are nobody else's."""

    def command(self, sock=None):
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", SHARED, str(self.workdir), *super().command(sock)]


def all_cases(engine, progress=None, wanted=lambda case: True):
    """The documents of the cases by name, the facts of the machine, and the engine's version."""
    driver = drive.Driver(engine)
    try:
        names = normal.Names(driver)
        documents = {}
        for case in filter(wanted, cases.CASES):
            documents[case.name] = one(driver, case, names)
            if progress:
                print(case.name, file=progress, flush=True)
        version = driver.json("GET", "/version")[1]
        return documents, compare.facts(driver, names), {key: version[key] for key in ("Version", "ApiVersion")}
    finally:
        driver.close()


def one(driver, case, names):
    try:
        return normal.flat(driver.run(case), case, names)
    except Exception as e:  # The document says what happened, and the comparison goes on with the others.
        return {"HARNESS": f"{type(e).__name__}: {e}"}


def unlike(documents, expected, intended, different=()):
    """Lines about what is not as expected and not intended."""
    lines = []
    for name, theirs in expected.items():
        if name not in documents:
            continue
        found = {path: both for path, both in compare.differences(documents[name], theirs).items()
                 if not intended.take(name, path, *both) and not compare.depends(name, path, different)}
        lines += compare.report(name, found)
    return lines
