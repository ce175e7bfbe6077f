"""Metrics of the machine: disk, GPUs, event loop, interruptions and price. Part of metrics.py."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class MachineMetrics:
    """Every metric of the machine. A value that NVML does not report is absent, not zero."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(prefix + name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(prefix + name, meaning, labels, registry=registry)

        self.event_loop_lag_seconds = Histogram(
            f"{prefix}event_loop_lag_seconds",
            "Delay of a timer in the poller's event loop, sampled.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.scratch_free_bytes = gauge("scratch_free_bytes", "Free space on the disk of the scratch directory.")
        self.scratch_size_bytes = gauge("scratch_size_bytes", "Size of the disk of the scratch directory.")
        self.scratch_min_free_bytes = gauge(
            "scratch_min_free_bytes", "Free space below which the daemon does not receive: TRANSCRIPTD_MIN_FREE_BYTES."
        )
        self.gpu_memory_used_bytes = gauge("gpu_memory_used_bytes", "GPU memory in use by all processes.", "gpu")
        self.gpu_memory_size_bytes = gauge("gpu_memory_size_bytes", "Size of the GPU's memory.", "gpu")
        self.gpu_utilisation_ratio = gauge(
            "gpu_utilisation_ratio", "Share of NVML's last sample period in which a kernel was running.", "gpu"
        )
        self.gpu_temperature_celsius = gauge("gpu_temperature_celsius", "Temperature of the GPU.", "gpu")
        self.gpu_xid_errors = counter(
            "gpu_xid_errors", "Errors reported by the GPU driver, by NVIDIA's Xid number.", "gpu", "xid"
        )
        self.gpu_query_failures = counter(
            "gpu_query_failures", "Failed NVML queries for a GPU that was found at start-up.", "gpu"
        )
        self.interruptions = counter(
            "interruptions", "Announced interruptions of the instance: spot, termination, rebalance.", "kind"
        )
        self.imds_poll_failures = counter(
            "imds_poll_failures", "Polls in which EC2's instance metadata service did not respond."
        )
        self.instance_price_per_hour = gauge(
            "instance_price_per_hour",
            "Price of the instance per hour: TRANSCRIPTD_INSTANCE_PRICE_PER_HOUR; 0 if unknown.",
        )
        for kind in ("spot", "termination", "rebalance"):
            self.interruptions.labels(kind)
