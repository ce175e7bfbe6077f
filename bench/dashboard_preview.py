"""Pictures of the dashboards: a real fleet works and fails for some minutes, a real Prometheus watches, the panels are drawn.

Drawn from the dashboards' own JSON, not by Grafana. `--keep` writes down what Prometheus answered, `--from` draws from that.
"""

import argparse
import json
import random
import shutil
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from bench.grafana_drawing import Mark, Page
from deploy.monitoring.dashboards.generate import dashboards
from tests.acceptance.world import repeated_call
from tests.grafana import Look
from tests.observed import KEPT, PRODUCTION, SPOT, Fleet, open_fleet
from tests.prometheus import Series
from tests.receiver import OK

Json = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "docs" / "dashboards"
SCRAPE_SECONDS, STEP_SECONDS = 2, 2.0
SECOND, NEW = "i-0second", "i-0new"


def keep_sending(fleet: Fleet, stop: threading.Event) -> None:
    """About as many jobs as one instance can do."""
    some = random.Random(7)
    while not stop.wait(some.uniform(0.8, 2.0)):
        fleet.publish(
            f"work {some.uniform(0.4, 2.4):.2f}", some.choice(("call.wav", "call.wav", "longer.wav", "long.wav"))
        )


def watch(program: str) -> Json:
    """A bad quarter of an hour in three minutes: what Prometheus answers to every query afterwards."""
    with open_fleet(program, SCRAPE_SECONDS) as fleet:
        for name, times in (("longer.wav", 3), ("long.wav", 8)):
            fleet.world.upload(name, repeated_call(fleet.world.folder / name, times))
        began_at = time.time()
        fleet.start(KEPT, environment={"FAKE_NVML_XIDS": "79"})
        fleet.wait_until_watched(KEPT)
        stop = threading.Event()
        sending = threading.Thread(target=keep_sending, args=(fleet, stop))
        sending.start()
        try:
            time.sleep(25)
            fleet.publish_troubles()
            time.sleep(20)
            fleet.lose_and_leave()
            fleet.silent.default = OK  # the receiver is back
            fleet.start(SECOND)
            time.sleep(25)
            fleet.start(NEW)
            time.sleep(30)
            fleet.publish_troubles()
            time.sleep(15)
        finally:
            stop.set()
            sending.join()
        return ask(fleet, began_at, time.time())


def ask(fleet: Fleet, began_at: float, ended_at: float) -> Json:
    chosen = {"environment": PRODUCTION, "model": ["scripted"], "instance": [KEPT, SECOND, SPOT, NEW]}
    # Twice the real one, as for a Grafana that is told 4 s: rates over 16 s instead of 8.
    look = Look(chosen, ended_at - began_at, STEP_SECONDS, 2 * SCRAPE_SECONDS)

    def answer(expression: str, *, instant: bool) -> list[Json]:
        filled, prometheus = look.filled(expression), fleet.prometheus
        found = (
            prometheus.query(filled) if instant else prometheus.query_range(filled, began_at, ended_at, STEP_SECONDS)
        )
        return [asdict(series) for series in found]

    answers = {
        f"{dashboard['uid']} {panel['id']} {target['refId']}": answer(target["expr"], instant=target["instant"])
        for dashboard in dashboards()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    annotations = [each for each in dashboards()[0]["annotations"]["list"] if "expr" in each]
    marks = {each["name"]: answer(each["expr"], instant=False) for each in annotations}
    return {"began_at": began_at, "ended_at": ended_at, "answers": answers, "marks": marks}


def draw(dashboard: Json, data: Json) -> Path:
    marks, named = [], []
    for annotation in dashboard["annotations"]["list"]:
        if "expr" not in annotation:
            continue
        named.append((annotation["name"], annotation["iconColor"]))
        for series in data["marks"][annotation["name"]]:
            at, value = series["points"][0]
            moment = value / 1000 if annotation["useValueForTime"] else at
            marks.append(Mark(max(moment, data["began_at"]), annotation["name"], annotation["iconColor"]))
    page = Page(dashboard, data["began_at"], data["ended_at"], marks)
    chosen = {"datasource": "Prometheus", "environment": PRODUCTION}
    variables = [(each["label"], chosen.get(each["name"], "All")) for each in dashboard["templating"]["list"]]
    page.head(dashboard["title"], variables, named)
    for panel in dashboard["panels"]:
        keys = [f"{dashboard['uid']} {panel['id']} {target['refId']}" for target in panel.get("targets", ())]
        page.draw(panel, [[Series(**series) for series in data["answers"][key]] for key in keys])
    path = FOLDER / f"{dashboard['uid']}.png"
    page.figure.savefig(path, facecolor=page.figure.get_facecolor())
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        few.save(path, optimize=True)  # a third of the size
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="write what Prometheus answered into this file")
    parser.add_argument("--from", type=Path, dest="given", help="draw from such a file")
    arguments = parser.parse_args()
    if arguments.given:
        data = json.loads(arguments.given.read_text())
    else:
        program = shutil.which("prometheus")
        if program is None:
            sys.exit("prometheus is not installed; on Debian: apt-get install prometheus")
        data = watch(program)
    if arguments.keep:
        arguments.keep.write_text(json.dumps(data))
    FOLDER.mkdir(exist_ok=True)
    for dashboard in dashboards():
        path = draw(dashboard, data)
        print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
