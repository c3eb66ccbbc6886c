"""Health checks of containers that are paused again and again."""
import time

from engine import wait_for
from test_health import MS, check, health, moment, run


def test_probing_goes_on_after_any_pause(engine):
    """A probe that is refused because a pause is under way is not the last one."""
    boxes = [f"box{n}" for n in range(4)]
    for box in boxes:
        run(engine, box, check("CMD", "true", Interval=3 * MS))
    for box in boxes:
        wait_for(lambda: health(engine, box)["Log"], f"{box} is probed")
    for _ in range(25):
        for path in ("pause", "unpause"):
            for box in boxes:
                assert engine.json("POST", f"/v1.48/containers/{box}/{path}")[0] == 204
        time.sleep(0.01)
    after = time.time()
    for box in boxes:
        wait_for(lambda: any(moment(r["Start"]) > after for r in health(engine, box)["Log"]), f"{box} is probed", 60)
