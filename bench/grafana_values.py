"""How Grafana says a value: units, colours by threshold, names by mapping, series by their legend."""

import math
import re
from typing import Any

from tests.prometheus import Series

Json = dict[str, Any]

COLOURS = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
}
PALETTE = "#73bf69 #f2cc0c #8ab8ff #ff780a #f2495c #5794f2 #b877d9 #705da0 #37872d #e0b400 #447ebc #c15c17".split()


def colour_of(name: str) -> str:
    return COLOURS.get(name, name)


def formatted(value: float, unit: str, decimals: int | None) -> str:
    """The value with its unit, scaled as Grafana scales it."""
    if math.isnan(value):
        return "–"
    match unit:
        case "percentunit":
            return f"{_number(value * 100, decimals, 1)} %"
        case "s":
            return _scaled(
                value, [(1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d")], decimals
            )
        case "bytes":
            return _scaled(value, [(1, "B"), *((1024.0**n, f"{p}iB") for n, p in enumerate("KMGT", 1))], decimals)
        case "celsius":
            return f"{_number(value, decimals, 1)} °C"
        case "short":
            return _scaled(value, [(1, ""), (1e3, "K"), (1e6, "Mil")], decimals).strip()
    return _number(value, decimals, 2) + unit.removeprefix("suffix:").replace("none", "")


def _scaled(value: float, scales: list[tuple[float, str]], decimals: int | None) -> str:
    if value == 0:
        return f"0 {next(name for scale, name in scales if scale == 1)}"
    fitting = [(scale, name) for scale, name in scales if abs(value) >= scale] or scales[:1]
    scale, name = fitting[-1]
    return f"{_number(value / scale, decimals, 2 if abs(value / scale) < 10 else 1)} {name}"


def _number(value: float, decimals: int | None, most_decimals: int) -> str:
    text = f"{value:.{most_decimals if decimals is None else decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals is None and "." in text else text


def threshold_colour(value: float, steps: list[Json]) -> str:
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return colour_of(reached[-1])


def mapped(value: str, mappings: list[Json]) -> tuple[str, str | None] | None:
    """Text and colour that a mapping gives the value."""
    for mapping in mappings:
        if found := mapping["options"].get(value):
            return found["text"], colour_of(found["color"]) if "color" in found else None
    return None


def legend(series: Series, target: Json) -> str:
    pattern = target["legendFormat"]
    if pattern == "__auto":
        return ", ".join(f"{name}={value}" for name, value in series.labels.items() if name != "__name__") or "value"
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: series.labels.get(found[1], ""), pattern)


def fixed_colour(panel: Json, ref_id: str) -> str | None:
    """The colour that an override gives all series of a query."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byFrameRefID", "options": ref_id}:
            return colour_of(override["properties"][0]["value"]["fixedColor"])
    return None


def merged_rows(panel: Json, answers: list[list[Series]]) -> list[Json]:
    """The rows of a table after the transformation `merge`: those that agree in every shared label become one."""
    rows: list[Json] = []
    for target, found in zip(panel["targets"], answers, strict=True):
        name = "Value" if len(answers) == 1 else f"Value #{target['refId']}"
        for series in found:
            row = {**series.labels, name: series.points[-1][1]}
            fitting = [
                each for each in rows if all(each[key] == row[key] for key in each.keys() & series.labels.keys())
            ]
            if fitting and len(answers) > 1:
                fitting[0].update(row)
            else:
                rows.append(row)
    return rows
