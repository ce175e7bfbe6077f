"""Common parts of all dashboards: variables, annotations, links to the other dashboards and to the runbooks."""

from collections.abc import Sequence

from deploy.monitoring.dashboards.panels import BLUE, DATASOURCE, ORANGE, PURPLE, Json, laid_out, link

RUNBOOKS = "https://runbooks.example.com"
TAG = "transcriptd"
SCHEMA_VERSION = 41  # Grafana 11.6; newer ones migrate

FLEET, PIPELINE, INSTANCE, DELIVERY, TENANTS = (
    f"transcriptd-{name}" for name in ("fleet", "pipeline", "instance", "delivery", "tenants")
)

# Label selectors of the queries. `deployment` is the name of the Terraform module; each environment has one.
IN_ENVIRONMENT = 'deployment="$environment"'
ON_INSTANCES = f'{IN_ENVIRONMENT}, instance=~"$instance"'


def to(uid: str, title: str) -> Json:
    """Link to another dashboard, keeping environment and time range."""
    return link(title, f"/d/{uid}?var-environment=${{environment}}&${{__url_time_range}}")


def runbook(alert: str) -> Json:
    return link(f"Runbook: {alert}", f"{RUNBOOKS}/{alert}.md")


def newly(metric: str, by: str, select: str = "") -> str:
    """Build the query for the growth of a counter over a rate interval, for rare events.

    increase() would miss the first event of a new series, and events between two scrapes with a gap.
    """
    now = f"{metric}{{{', '.join(filter(None, (ON_INSTANCES, select)))}}}"
    return f"sum by ({by}) ({now} - last_over_time({now}[1h] offset $__rate_interval) >= 0 or {now})"


def dashboard(
    uid: str, title: str, about: str, panels: Sequence[Json], *, by_instance: bool, by_tenant: bool = False
) -> Json:
    """Build a dashboard. With `by_instance` it has variables for instance and model, and its panels select by ON_INSTANCES.
    With `by_tenant` it has a variable for the tenant."""
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": _variables(by_instance=by_instance, by_tenant=by_tenant)},
        "annotations": {"list": _annotations()},
        "links": _links(),
        "panels": laid_out(panels),
    }


def _variables(*, by_instance: bool, by_tenant: bool) -> list[Json]:
    datasource: Json = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"}
    environment = _variable("environment", "Environment", "label_values(transcriptd_build_info, deployment)")
    several = {"multi": True, "includeAll": True, "current": {"text": ["All"], "value": ["$__all"]}}
    if by_tenant:
        tenants = f"label_values(transcriptd_tenant_jobs_in_flight{{{IN_ENVIRONMENT}}}, tenant)"
        return [datasource, environment, _variable("tenant", "Tenant", tenants) | several]
    if not by_instance:
        return [datasource, environment]
    of_environment = f"instance:transcriptd_model:info{{{IN_ENVIRONMENT}"
    return [
        datasource,
        environment,
        _variable("model", "Model", f"label_values({of_environment}}}, asr_model)") | several,
        _variable("instance", "Instance", f'label_values({of_environment}, asr_model=~"$model"}}, instance)') | several,
    ]


def _variable(name: str, label: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,  # on time range change: instances come and go
        "sort": 1,
    }


def _annotations() -> list[Json]:
    new_version = (
        f"count by (version) (transcriptd_build_info{{{IN_ENVIRONMENT}}})"
        f" unless on (version) count by (version) (last_over_time(transcriptd_build_info{{{IN_ENVIRONMENT}}}[1d] offset 2m))"
    )
    started = f'process_start_time_seconds{{job="transcriptd", {IN_ENVIRONMENT}}} * 1000'
    interrupted = f"sum by (instance, kind) (increase(transcriptd_interruptions_total{{{IN_ENVIRONMENT}}}[1m])) > 0"
    return [
        {
            "type": "dashboard",
            "name": "Annotations & Alerts",
            "builtIn": 1,
            "datasource": {"type": "grafana", "uid": "-- Grafana --"},
            "enable": True,
            "hide": True,
            "iconColor": BLUE,
        },
        # Versions not seen in the day before: a fleet that returns from zero is not a deploy.
        _annotation("Deploys", PURPLE, new_version, "{{version}} deployed"),
        _annotation("Daemon starts", BLUE, started, "{{instance}} started", at_value=True),
        _annotation("Interruptions", ORANGE, interrupted, "{{instance}}: {{kind}} announced"),
    ]


def _annotation(name: str, colour: str, expression: str, title: str, *, at_value: bool = False) -> Json:
    """Build an annotation. With `at_value` the value is its time in milliseconds; otherwise each sample is an annotation."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expression,
        "titleFormat": title,
        "step": "60s",
        "useValueForTime": at_value,
    }


def _links() -> list[Json]:
    others = {"type": "dashboards", "tags": [TAG], "includeVars": True, "keepTime": True}
    return [link("transcriptd", "") | others, link("Runbooks", f"{RUNBOOKS}/README.md") | {"targetBlank": True}]
