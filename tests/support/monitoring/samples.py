"""Parse the Prometheus exposition format."""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from daemon.telemetry.metrics import Metrics


def samples_of(metrics: Metrics) -> dict[str, float]:
    """Return the values by series, each written as `name{label="value"}` with its labels in order."""
    return _samples(metrics.registry.collect())


def scraped(text: str) -> dict[str, float]:
    """Return the values by series from a response of /metrics."""
    return _samples(text_string_to_metric_families(text))


def _samples(families: Iterable[Metric]) -> dict[str, float]:
    found = {}
    for family in families:
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found
