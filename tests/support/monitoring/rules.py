"""The alerts and recording rules of deploy/monitoring, and the series that rules and dashboards may use."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from daemon.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "info": ("_info",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules_of(name: str) -> list[dict[str, Any]]:
    return [rule for group in load(RULES / name)["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules_of("alerts.yml")}


@cache
def declared() -> dict[str, frozenset[str]]:
    """Return the labels of every series that the daemon can expose, by name."""
    found = {}
    for family in Metrics().registry._collector_to_names:
        if hasattr(family, "_labelnames"):
            for suffix in SUFFIXES[family._type]:  # type: ignore[attr-defined]
                found[family._name + suffix] = frozenset(family._labelnames) | {"le"}  # type: ignore[attr-defined]
    for name in ("process_start_time_seconds", "process_resident_memory_bytes", "up"):
        found[name] = frozenset()
    return found


def selectors(expression: str) -> dict[str, set[str]]:
    """Return the labels that the expression selects by, for each metric."""
    found: dict[str, set[str]] = {}
    pattern = r"\b((?:transcriptd|process)_\w+|\w+:\w+:\w+|up(?=[{[ ]))(?:\{([^}]*)\})?"
    for name, labels in re.findall(pattern, expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", labels))
    return found
