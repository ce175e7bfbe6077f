"""Write the dashboards as JSON next to this file. A test fails when one is out of date."""

import json
from pathlib import Path

from deploy.monitoring.dashboards import delivery, fleet, instance, pipeline, tenants
from deploy.monitoring.dashboards.panels import Json

FOLDER = Path(__file__).parent


def dashboards() -> list[Json]:
    return [module.dashboard() for module in (fleet, pipeline, instance, delivery, tenants)]


def dashboard_path(dashboard: Json) -> Path:
    return FOLDER / f"{dashboard['uid']}.json"


def main() -> None:
    for dashboard in dashboards():
        dashboard_path(dashboard).write_text(json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
