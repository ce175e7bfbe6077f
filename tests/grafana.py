"""What Grafana does with a dashboard's queries before it sends them: variables and its own `$__` names are replaced.

https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DashboardQuery:
    """A query of a panel, of a variable or of an annotation. `instant` ones are asked for one moment."""

    title: str
    kind: Literal["panel", "variable", "annotation"]
    expression: str
    instant: bool = False


def queries_of(dashboard: Json) -> list[DashboardQuery]:
    """Every query of the dashboard that goes to Prometheus."""
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
    """What somebody looks at: the values that are chosen, the time, and how fine it is drawn."""

    values: Mapping[str, str | Sequence[str]]  # by variable; several of one that allows it
    range_seconds: float
    step_seconds: float
    scrape_seconds: float  # "Scrape interval" in the settings of the data source

    def filled(self, expression: str) -> str:
        """The expression as Grafana sends it. Raises ValueError where a variable stays."""
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
            raise ValueError(f"{left} of {expression!r} is not known")
        return expression

    def label_values(self, query: str) -> tuple[str, str]:
        """Series and label of `label_values(series, label)`. Raises ValueError for anything else."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", self.filled(query))
        if found is None:
            raise ValueError(f"no label_values: {query}")
        return found[1], found[2]


def _regex(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    escaped = [re.sub(r"([.\\+*?^$(){}|\[\]])", r"\\\\\1", each) for each in value]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
