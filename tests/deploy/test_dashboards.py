"""deploy/monitoring/dashboards: up to date, valid for Grafana's types, and naming nothing that does not exist.

tests/acceptance/test_dashboards.py checks with a real Prometheus that every query returns data.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import all_errors
from daemon.supervisor.state import RunnerState
from deploy.monitoring.dashboards.fleet import LATE_SECONDS
from deploy.monitoring.dashboards.frame import RUNBOOKS as RUNBOOK_URL
from deploy.monitoring.dashboards.generate import FOLDER, dashboard_path, dashboards
from deploy.monitoring.dashboards.instance import STALL_SECONDS, STATES
from deploy.monitoring.dashboards.panels import COLUMNS
from deploy.monitoring.dashboards.reasons import EXCEPTIONS
from tests.support.monitoring.grafana import queries_of
from tests.support.monitoring.grafana_types import misfits
from tests.support.monitoring.rules import ALERTS, RUNBOOKS, declared, rules_of, selectors

DASHBOARDS = {each["uid"]: each for each in dashboards()}
EVERY = pytest.mark.parametrize("uid", DASHBOARDS)

# Labels that Prometheus itself and deploy/monitoring/prometheus.yml add to every series.
TARGET_LABELS = {"job", "instance", "deployment"}
# Counters shown without a rate: totals since the start, and series created by their first error, which increase() would
# miss.
CUMULATIVE = {
    "Dead-letter queues B": {"transcriptd_deliveries_total"},
    "GPU errors A": {"transcriptd_gpu_xid_errors_total"},
}
COUNTED = ("_total", "_bucket", "_count", "_sum")


def panels(uid: str) -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARDS[uid]["panels"] if panel["type"] != "row"]


def test_checked_in_dashboards_are_up_to_date() -> None:
    made = {dashboard_path(each): each for each in dashboards()}
    assert {path: json.loads(path.read_text()) for path in FOLDER.glob("*.json")} == made, "run `make docs`"


@EVERY
def test_dashboards_match_grafanas_types(uid: str) -> None:
    assert misfits(DASHBOARDS[uid]) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("titel",), "x", "Dashboard has no titel"),
        (("refresh",), 30, "30 is no str"),
        (("graphTooltip",), 7, "7 is none of [0, 1, 2]"),
        (("templating", "list", 0, "type"), "magic", "'magic' is none of"),
        (("panels", 1, "options", "colorMode"), "rainbow", "'rainbow' is none of"),
        (("panels", 1, "options", "graph"), "none", "Options has no graph"),
        (("panels", 1, "targets", 0, "expr"), 1, "1 is no str"),
        (("panels", 1, "targets", 0, "query"), "up", "Dataquery has no query"),
        (("panels", 1, "fieldConfig", "defaults", "thresholds", "steps", 0), {}, "Threshold needs color"),
        (("panels", 1, "gridPos"), {"x": 0, "y": 0}, "GridPos needs h"),
        (("panels", -1, "fieldConfig", "defaults", "custom", "drawStyle"), "steps", "'steps' is none of"),
    ],
)
def test_mismatches_are_found(path: tuple[Any, ...], value: Any, told: str) -> None:
    dashboard = copy.deepcopy(DASHBOARDS["transcriptd-fleet"])
    *way, last = path
    target = dashboard
    for step in way:
        target = target[step]
    target[last] = value
    assert any(told in misfit for misfit in misfits(dashboard)), misfits(dashboard)


@EVERY
def test_every_panel_is_described(uid: str) -> None:
    for panel in panels(uid):
        assert panel["title"]
        if panel["type"] == "text":
            continue
        assert len(panel["description"]) > 20, (
            f"{panel['title']}: the description must say what is shown, what is good, and what to do"
        )
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        assert all(target["refId"] for target in panel["targets"])
        if panel["type"] == "stat":
            assert defaults["links"], f"{panel['title']} has no link"
            assert defaults["noValue"]


@EVERY
def test_panels_do_not_overlap(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[uid]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARDS[uid]["panels"]}) == len(DASHBOARDS[uid]["panels"])


@EVERY
def test_variables_are_defined_and_used(uid: str) -> None:
    dashboard = DASHBOARDS[uid]
    defined = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert defined[:2] == ["datasource", "environment"]
    assert defined[2:] in ([], ["model", "instance"], ["tenant"])
    text = json.dumps([query.expression for query in queries_of(dashboard)]) + json.dumps(dashboard["templating"])
    text += json.dumps([panel["datasource"] for panel in panels(uid) if panel["type"] != "text"])
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert used == set(defined)


@EVERY
def test_queries_use_metrics_of_the_daemon(uid: str) -> None:
    recorded = {rule["record"] for rule in rules_of("recording.yml")}
    for query in queries_of(DASHBOARDS[uid]):
        found = selectors(query.expression)
        assert found or "ALERTS" in query.expression, f"{query.title} selects no series"
        for metric, labels in found.items():
            where = f"{query.title}: {metric}"
            assert metric in (recorded if ":" in metric else declared()), where
            if ":" not in metric:
                assert labels <= declared()[metric] | TARGET_LABELS | {"asr_model"}, where
            assert "deployment" in labels or query.kind == "variable", f"{where} is not limited to one environment"


@EVERY
def test_rates_are_only_of_counters(uid: str) -> None:
    for query in queries_of(DASHBOARDS[uid]):
        for function, metric in re.findall(r"\b(rate|increase)\((\w+)", query.expression):
            assert metric.endswith(COUNTED), f"{query.title}: {function} of {metric}"
        expression = re.sub(r"(\S+\{[^}]*\}) - last_over_time\(\1\[1h\] offset \S+ >= 0 or \1", "", query.expression)
        bare = re.findall(r"\b(transcriptd_\w+?_(?:total|bucket|count|sum))\{[^}]*\}(?!\[)", expression)
        assert set(bare) <= CUMULATIVE.get(query.title.partition(": ")[2], set()), (
            f"{query.title}: {bare} without a rate"
        )


@EVERY
def test_links_lead_to_existing_dashboards_and_runbooks(uid: str) -> None:
    text = json.dumps(DASHBOARDS[uid])
    for target in re.findall(r'"/d/([\w-]+)', text):
        assert target in DASHBOARDS
    pages = set(re.findall(re.escape(RUNBOOK_URL) + r"/(\w+)\.md", text))
    assert pages
    assert pages <= {path.stem for path in RUNBOOKS.glob("*.md")}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_links_to_a_dashboard_that_shows_it(name: str) -> None:
    url = ALERTS[name]["annotations"]["dashboard_url"]
    found = re.fullmatch(r"https://grafana\.example\.com/d/([\w-]+)\?(.*)", url)
    assert found is not None
    dashboard = DASHBOARDS[found[1]]
    given = re.findall(r"(?:^|&)var-(\w+)=\{\{ \$labels\.(\w+) \}\}", found[2])
    assert "&".join(f"var-{variable}={{{{ $labels.{label} }}}}" for variable, label in given) == found[2]
    assert dict(given) == {"environment": "deployment"} | ({"instance": "instance"} if "instance" in found[2] else {})
    assert {variable for variable, _ in given} <= {each["name"] for each in dashboard["templating"]["list"]}
    shown = set().union(*(measured_in(query.expression) for query in queries_of(dashboard) if query.kind == "panel"))
    measured = measured_in(ALERTS[name]["expr"])
    assert measured & shown, f"{found[1]} does not show {measured}"


def measured_in(expression: str) -> set[str]:
    """Return the daemon's metrics that the expression uses, directly or through recording rules."""
    recorded = {rule["record"]: rule["expr"] for rule in rules_of("recording.yml")}
    found = set()
    for metric in selectors(expression):
        found |= measured_in(recorded[metric]) if metric in recorded else {metric}
    return found


def test_thresholds_are_those_of_the_alerts() -> None:
    assert f"> {LATE_SECONDS}" in ALERTS["TranscriptdQueueWaitOverSlo"]["expr"]
    assert f"> {STALL_SECONDS}" in ALERTS["TranscriptdNotPolling"]["expr"]


def test_runner_states_are_those_of_the_daemon() -> None:
    assert {name for _, name, _ in STATES} == {state.value for state in RunnerState}


def test_exceptions_name_existing_errors() -> None:
    assert EXCEPTIONS.keys() <= {error.code for error in all_errors()}


def test_generator_stays_small() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in Path(FOLDER).glob("*.py")}
    assert {name for name, count in lines.items() if count > 300} == set()
