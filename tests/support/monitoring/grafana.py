"""Prepare a dashboard's queries as Grafana does before it sends them: replace variables and Grafana's own `$__` macros.

https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DashboardQuery:
    """A query of a panel, a variable or an annotation. Instant queries are evaluated at one point in time."""

    title: str
    kind: Literal["panel", "variable", "annotation"]
    expression: str
    instant: bool = False


def queries_of(dashboard: Json) -> list[DashboardQuery]:
    """Return every Prometheus query of the dashboard."""
    return [*_variables(dashboard), *_annotations(dashboard), *_panels(dashboard)]


def _variables(dashboard: Json) -> Iterator[DashboardQuery]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield DashboardQuery(f"variable {variable['name']}", "variable", variable["query"]["query"])


def _annotations(dashboard: Json) -> Iterator[DashboardQuery]:
    for annotation in dashboard["annotations"]["list"]:
        if annotation["datasource"]["type"] == "prometheus":
            yield DashboardQuery(f"annotation {annotation['name']}", "annotation", annotation["expr"])


def _panels(dashboard: Json) -> Iterator[DashboardQuery]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            name = f"{dashboard['uid']}: {panel['title']} {target['refId']}"
            yield DashboardQuery(name, "panel", target["expr"], target["instant"])


@dataclass(frozen=True, slots=True)
class Look:
    """A view of the dashboard: the selected variables, the time range and the resolution."""

    values: Mapping[str, str | Sequence[str]]  # by variable; several values for a multi-value variable
    range_seconds: float
    step_seconds: float
    scrape_seconds: float  # "Scrape interval" in the settings of the data source

    def filled(self, expression: str) -> str:
        """Return the expression as Grafana sends it. Raise ValueError if a variable remains."""
        rate_seconds = max(self.step_seconds + self.scrape_seconds, 4 * self.scrape_seconds)
        named = {
            "__rate_interval": _duration(rate_seconds),
            "__interval": _duration(self.step_seconds),
            "__range": _duration(self.range_seconds),
            **{name: _regex(value) for name, value in self.values.items()},
        }
        for name in sorted(named, key=len, reverse=True):
            literal = named[name].replace("\\", r"\\")
            expression = re.sub(rf"\$\{{?{name}\b\}}?", literal, expression)
        if left := re.findall(r"\$\{?[a-z_]\w*", expression):
            raise ValueError(f"{left} in {expression!r} is an unknown variable")
        return expression

    def label_values(self, query: str) -> tuple[str, str]:
        """Return series and label of `label_values(series, label)`. Raise ValueError for any other query."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", self.filled(query))
        if found is None:
            raise ValueError(f"not a label_values query: {query}")
        return found[1], found[2]


def _regex(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    escaped = [re.sub(r"([.\\+*?^$(){}|\[\]])", r"\\\\\1", each) for each in value]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
