"""Write the dashboards. `--check` writes nothing and fails when one is out of date."""

import argparse
import json
import sys
from pathlib import Path

from deploy.monitoring.dashboards import delivery, fleet, instance, pipeline
from deploy.monitoring.dashboards.panels import Json

FOLDER = Path(__file__).parent


def dashboards() -> list[Json]:
    return [module.dashboard() for module in (fleet, pipeline, instance, delivery)]


def path_of(dashboard: Json) -> Path:
    return FOLDER / f"{dashboard['uid']}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = {path_of(each): json.dumps(each, indent=2, ensure_ascii=False) + "\n" for each in dashboards()}
    there = {path: path.read_text() for path in FOLDER.glob("*.json")}
    stale = sorted(path for path in made.keys() | there.keys() if made.get(path) != there.get(path))
    for path in stale:
        if check:
            print(f"{path.name} is out of date: run `make docs`", file=sys.stderr)
        elif path in made:
            path.write_text(made[path])
        else:
            path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
