"""deploy/monitoring: Prometheus takes it, every alert is tested both ways, and nothing names what does not exist."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from daemon.config import Settings
from daemon.metrics import Metrics
from tests.deploy.module import MODULE
from tests.programs import require_program

ROOT = Path(__file__).parents[2]
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
    """Every series name that the daemon can expose → its labels."""
    found = {}
    for family in Metrics().registry._collector_to_names:
        if hasattr(family, "_labelnames"):
            for suffix in SUFFIXES[family._type]:  # type: ignore[attr-defined]
                found[family._name + suffix] = frozenset(family._labelnames) | {"le"}  # type: ignore[attr-defined]
    for name in ("process_start_time_seconds", "process_resident_memory_bytes", "up"):
        found[name] = frozenset()
    return found


def selectors(expression: str) -> dict[str, set[str]]:
    """Metric → the labels it is selected by."""
    found: dict[str, set[str]] = {}
    pattern = r"\b((?:transcriptd|process)_\w+|\w+:\w+:\w+|up(?=[{[ ]))(?:\{([^}]*)\})?"
    for name, labels in re.findall(pattern, expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", labels))
    return found


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules/recording.yml", "rules/alerts.yml")],
    ids=lambda arguments: arguments[1],
)
def test_prometheus_takes_it(arguments: tuple[str, ...]) -> None:
    run(require_program("promtool"), *arguments)


@pytest.mark.parametrize("file", sorted(path.name for path in (RULES / "tests").glob("*.yml")))
def test_alerts_fire_when_they_must_and_only_then(file: str) -> None:
    run(require_program("promtool"), "test", "rules", f"rules/tests/{file}")


def test_prometheus_takes_the_metrics() -> None:
    """promtool knows the naming rules."""
    exposed = generate_latest(Metrics().registry)
    command = [require_program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=exposed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_alertmanager_takes_the_example() -> None:
    run(require_program("amtool"), "check-config", "alertmanager.example.yml")


def test_every_alert_is_tested_both_ways() -> None:
    tests = [
        (case["alertname"], bool(case["exp_alerts"]))
        for path in (RULES / "tests").glob("*.yml")
        for test in load(path)["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    assert {name for name, fires in tests if fires} == set(ALERTS)
    assert {name for name, fires in tests if not fires} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_is(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Transcriptd[A-Z][A-Za-z]+", name)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{ $labels." in annotations["summary"], "where?"
    assert "{{ $value" in annotations["description"], "how bad?"
    assert annotations["runbook_url"].endswith(f"/{name}.md")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Transcriptd*.md")} == set(ALERTS)
    listed = re.findall(r"\[(\w+)\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert [name for name, _ in listed] == [target for _, target in listed] == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_runbook_answers_the_same_questions(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Meaning", "Impact", "Confirm", "Do"]


def test_rules_and_runbooks_name_what_the_daemon_measures() -> None:
    recorded = {rule["record"] for rule in rules_of("recording.yml")}
    texts = {
        rule.get("alert", rule.get("record")): rule["expr"]
        for rule in rules_of("alerts.yml") + rules_of("recording.yml")
    }
    texts |= {path.name: path.read_text() for path in RUNBOOKS.glob("*.md")}
    for where, text in texts.items():
        for metric, labels in selectors(text).items():
            if ":" in metric:
                assert metric in recorded, f"{where}: {metric} is not recorded"
            elif metric.startswith(("transcriptd_", "process_")):
                assert metric in declared(), f"{where}: {metric} is not declared in daemon/metrics.py"
                unknown = labels - declared()[metric] - {"job", "instance", "deployment"}
                assert not unknown, f"{where}: {metric} has no label {unknown}"


def test_selectors_are_found() -> None:
    """What the test above sees: a name it overlooks would never be wrong."""
    found = selectors(
        'rate(transcriptd_x_total{a="b", c!~"d"}[5m]) / level:transcriptd_y:sum and up{job="z"} == process_k'
    )
    assert found == {
        "transcriptd_x_total": {"a", "c"},
        "level:transcriptd_y:sum": set(),
        "up": {"job"},
        "process_k": set(),
    }
    assert {name for rule in ALERTS.values() for name in selectors(rule["expr"])} & set(declared())


def test_runbooks_name_settings_of_the_daemon() -> None:
    settings = {f"TRANSCRIPTD_{name.upper()}" for name in Settings.model_fields}
    for path in RUNBOOKS.glob("*.md"):
        assert set(re.findall(r"TRANSCRIPTD_[A-Z_]+[A-Z]", path.read_text())) <= settings, path.name


def test_the_fleet_is_found_by_what_terraform_gives_it() -> None:
    locals_tf = (MODULE / "locals.tf").read_text()
    tags = dict(re.findall(r"(Application|Deployment) = ([^,}]+?)[ ,}]", locals_tf))
    (discovery,) = load(MONITORING / "prometheus.yml")["scrape_configs"][0]["ec2_sd_configs"]
    filters = {each["name"]: each["values"] for each in discovery["filters"]}
    assert filters["tag:Application"] == [tags["Application"].strip('"')]
    assert tags["Deployment"] == "var.name"
    assert f"http_port = {discovery['port']}" in locals_tf
    assert discovery["port"] == Settings.model_fields["http_port"].default


def test_thresholds_are_those_of_the_daemon_and_the_fleet() -> None:
    fields = Settings.model_fields
    assert f"> {fields['poll_stall_seconds'].default:g}" in ALERTS["TranscriptdNotPolling"]["expr"]
    wait = re.search(
        r'variable "acceptable_wait_seconds" \{[^}]*?default\s*=\s*(\d+)', (MODULE / "variables.tf").read_text()
    )
    assert wait is not None
    assert f"> {wait[1]}" in ALERTS["TranscriptdQueueWaitOverSlo"]["expr"]
    assert f'le=~"{wait[1]}(' in (RULES / "recording.yml").read_text()
    assert "transcriptd_queue_wait_seconds_bucket" in declared()


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([program, *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
