"""The OpenMetrics form of the metrics, for scrapers that request it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector


class OpenMetrics(Collector):
    """A registry adapted to OpenMetrics, where a histogram without `_sum` must not have `_count` either."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.type == "histogram" and not any(sample.name.endswith("_sum") for sample in family.samples):
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_count")]
            yield family
