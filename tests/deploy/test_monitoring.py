"""deploy/monitoring: Prometheus accepts the files, every alert is tested both ways, and every name exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from daemon.config import Settings
from daemon.telemetry.metrics import Metrics
from tests.support.deploy.module import MODULE
from tests.support.monitoring.rules import ALERTS, MONITORING, RULES, RUNBOOKS, declared, load, rules_of, selectors
from tests.support.programs import require_program


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules/recording.yml", "rules/alerts.yml")],
    ids=lambda arguments: arguments[1],
)
def test_prometheus_accepts_the_rules(arguments: tuple[str, ...]) -> None:
    run(require_program("promtool"), *arguments)


@pytest.mark.parametrize("file", sorted(path.name for path in (RULES / "tests").glob("*.yml")))
def test_alerts_fire_when_they_must_and_only_then(file: str) -> None:
    run(require_program("promtool"), "test", "rules", f"rules/tests/{file}")


def test_no_alert_fires_before_its_time(tmp_path: Path) -> None:
    """With all waiting times removed from the rules, the test of every alert that should wait must fail."""
    shutil.copytree(RULES, tmp_path / "rules")
    impatient = re.sub(r"(?m)^ +for: .*\n", "", (RULES / "alerts.yml").read_text())
    (tmp_path / "rules" / "alerts.yml").write_text(impatient)
    tests = [str(path) for path in (tmp_path / "rules" / "tests").glob("*.yml")]
    command = [require_program("promtool"), "test", "rules", *tests]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    too_early = set(re.findall(r"alertname: (\w+), time: ", done.stdout))
    assert too_early == {name for name, rule in ALERTS.items() if "for" in rule}


def test_prometheus_accepts_the_metrics() -> None:
    """promtool checks the naming conventions."""
    exposed = generate_latest(Metrics().registry)
    command = [require_program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=exposed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_alertmanager_accepts_the_example() -> None:
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
def test_every_alert_is_described(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Transcriptd[A-Z][A-Za-z]+", name)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{ $labels." in annotations["summary"], "the summary must name the affected series"
    assert "{{ $value" in annotations["description"], "the description must contain the value"
    assert annotations["runbook_url"].endswith(f"/{name}.md")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Transcriptd*.md")} == set(ALERTS)
    listed = re.findall(r"\[(\w+)\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert [name for name, _ in listed] == [target for _, target in listed] == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_runbook_answers_the_same_questions(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Meaning", "Impact", "Verify", "Mitigate"]


def test_rules_and_runbooks_use_metrics_of_the_daemon() -> None:
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
                assert metric in declared(), f"{where}: {metric} is not declared in daemon/telemetry/metrics.py"
                unknown = labels - declared()[metric] - {"job", "instance", "deployment"}
                assert not unknown, f"{where}: {metric} has no label {unknown}"


def test_selectors_are_found() -> None:
    """A check of the parser that the test above uses: a name it overlooks would never be reported."""
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


def test_runbooks_use_settings_of_the_daemon() -> None:
    settings = {f"TRANSCRIPTD_{name.upper()}" for name in Settings.model_fields}
    for path in RUNBOOKS.glob("*.md"):
        assert set(re.findall(r"TRANSCRIPTD_[A-Z_]+[A-Z]", path.read_text())) <= settings, path.name


def test_fleet_is_discovered_by_the_tags_of_terraform() -> None:
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
