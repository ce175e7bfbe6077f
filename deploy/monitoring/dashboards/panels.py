"""Building blocks of the dashboards, as plain dictionaries in Grafana's JSON model.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
tests/deploy/test_dashboards.py checks the result against the types that Grafana publishes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24  # of Grafana's grid

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e"


@dataclass(frozen=True, slots=True)
class Query:
    """A query. `colour` applies to all its series; the default is Grafana's palette."""

    expression: str
    legend: str = ""
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """Thresholds of a value: `base`, and another colour from each bound on. `line` draws the bounds in graphs."""

    base: str = GREEN
    bounds: tuple[tuple[float, str], ...] = ()
    line: bool = False

    def json(self) -> Json:
        steps = [{"value": None, "color": self.base}, *({"value": at, "color": colour} for at, colour in self.bounds)]
        return {"mode": "absolute", "steps": steps}


PLAIN = Steps(BLUE)  # for values without good or bad


def link(title: str, url: str) -> Json:
    """Build a link. The schema has one type; for links on values Grafana uses only title and URL."""
    rest = {"asDropdown": False, "icon": "external link", "includeVars": False, "keepTime": False, "tooltip": ""}
    return {"type": "link", "title": title, "url": url, "targetBlank": False, "tags": [], **rest}


def row(title: str) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


def text(title: str, markdown: str, *, width: int, height: int) -> Json:
    options = {"mode": "markdown", "content": markdown}
    return {"type": "text", "title": title, "gridPos": {"w": width, "h": height}, "options": options}


def stat(
    title: str,
    about: str,
    *queries: Query,
    unit: str,
    steps: Steps,
    links: Sequence[Json] = (),
    none: str = "not known",
    decimals: int | None = None,
    width: int = 3,
) -> Json:
    """Build a stat panel: the current value of each query, `none` if there is no value."""
    defaults = {"links": list(links), "noValue": none, "color": {"mode": "thresholds"}}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
        "graphMode": "none",
        "colorMode": "background",
        "justifyMode": "auto",
        "textMode": "value" if len(queries) == 1 else "value_and_name",
        "orientation": "horizontal",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    targets = [_target(number, query, instant=True) for number, query in enumerate(queries)]
    panel = _panel("stat", title, about, targets, options, width=width, height=4)
    panel["fieldConfig"] = _field_config(defaults, unit, steps, decimals, _painted(queries))
    return panel


def graph(
    title: str,
    about: str,
    *queries: Query,
    unit: str,
    steps: Steps = PLAIN,
    links: Sequence[Json] = (),
    stacked: bool = False,
    bars: bool = False,
    decimals: int | None = None,
    least: float | None = 0,
    most: float | None = None,
    width: int = 8,
    height: int = 7,
) -> Json:
    """Build a graph of values over time. `least` and `most` bound the axis."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 0 if stacked else 1,  # a line at zero on top of a stack looks like a value
        "fillOpacity": 70 if bars or stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if steps.line else "off"},
    }
    defaults: Json = {"links": list(links), "custom": custom, "color": {"mode": "palette-classic"}}
    defaults |= {name: bound for name, bound in (("min", least), ("max", most)) if bound is not None}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [_target(number, query) for number, query in enumerate(queries)]
    panel = _panel("timeseries", title, about, targets, options, width=width, height=height)
    panel["fieldConfig"] = _field_config(defaults, unit, steps, decimals, _painted(queries))
    return panel


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a label, or the value of query `Value #A`, `Value #B` …; `named` maps values to (text, colour)."""

    field: str
    title: str
    unit: str = "none"
    steps: Steps | None = None
    decimals: int | None = None
    width: int | None = None
    named: tuple[tuple[str, str, str | None], ...] = ()
    links: tuple[Json, ...] = ()


def table(
    title: str,
    about: str,
    queries: Sequence[str],
    columns: Sequence[Column],
    *,
    sort_by: str,
    descending: bool = False,
    none: str = "no data",
    width: int,
    height: int,
) -> Json:
    """Build a table of current values, joined on common labels, with only the given columns."""
    targets = []
    for number, expression in enumerate(queries):
        targets.append(_target(number, Query(expression), instant=True) | {"format": "table"})
    known = {column.field: number for number, column in enumerate(columns)}
    found = ["Time", "__name__", "job", "deployment", *(f"Value #{target['refId']}" for target in targets)]
    if len(targets) == 1:
        found[-1] = "Value"
    organise = {
        "excludeByName": {name: True for name in found if name not in known},
        "indexByName": known,
        "renameByName": {column.field: column.title for column in columns},
    }
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "frameIndex": 0,
        "sortBy": [{"displayName": sort_by, "desc": descending}],
        "footer": {"show": False, "reducer": [], "countRows": False},
    }
    panel = _panel("table", title, about, targets, options, width=width, height=height)
    panel["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organise}]
    panel["fieldConfig"] = {
        "defaults": {"noValue": none, "unit": "none", "thresholds": PLAIN.json(), "color": {"mode": "thresholds"}},
        "overrides": [_column(column) for column in columns],
    }
    return panel


def timeline(
    title: str, about: str, query: Query, named: Sequence[tuple[str, str, str]], *, width: int = 8, height: int = 7
) -> Json:
    """Build a state timeline: a bar per series; `named` maps its values to (text, colour)."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    panel = _panel("state-timeline", title, about, [_target(0, query)], options, width=width, height=height)
    defaults = {"custom": {"fillOpacity": 70, "lineWidth": 0}, "color": {"mode": "thresholds"}}
    panel["fieldConfig"] = _field_config(defaults | {"mappings": _mappings(named)}, "none", PLAIN, 0, [])
    return panel


def laid_out(panels: Sequence[Json]) -> list[Json]:
    """Lay out the panels from left to right, wrapping where one does not fit; a row takes a line."""
    left = top = line_height = 0
    placed = []
    for number, panel in enumerate(panels, 1):
        size = panel["gridPos"]
        if left + size["w"] > COLUMNS:
            left, top = 0, top + line_height
            line_height = 0
        placed.append(panel | {"id": number, "gridPos": {"x": left, "y": top, **size}})
        left += size["w"]
        line_height = max(line_height, size["h"])
    return placed


def _panel(kind: str, title: str, about: str, targets: list[Json], options: Json, *, width: int, height: int) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "options": options,
    }


def _target(number: int, query: Query, *, instant: bool = False) -> Json:
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
    }


def _field_config(defaults: Json, unit: str, steps: Steps, decimals: int | None, overrides: list[Json]) -> Json:
    defaults = {**defaults, "unit": unit, "thresholds": steps.json()}
    if decimals is not None:
        defaults["decimals"] = decimals
    return {"defaults": defaults, "overrides": overrides}


def _painted(queries: Sequence[Query]) -> list[Json]:
    return [
        {
            "matcher": {"id": "byFrameRefID", "options": chr(ord("A") + number)},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": query.colour}}],
        }
        for number, query in enumerate(queries)
        if query.colour
    ]


def _column(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.steps:
        properties.append({"id": "thresholds", "value": column.steps.json()})
    if column.steps or any(colour for _, _, colour in column.named):
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    if column.width is not None:
        properties.append({"id": "custom.width", "value": column.width})
    if column.named:
        properties.append({"id": "mappings", "value": _mappings(column.named)})
    if column.links:
        properties.append({"id": "links", "value": list(column.links)})
    return {"matcher": {"id": "byName", "options": column.title}, "properties": properties}


def _mappings(named: Sequence[tuple[str, str, str | None]]) -> list[Json]:
    options = {
        value: {"text": text, "index": number} | ({"color": colour} if colour else {})
        for number, (value, text, colour) in enumerate(named)
    }
    return [{"type": "value", "options": options}]
