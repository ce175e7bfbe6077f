"""GPU metrics with a fake NVML: available values, unsupported values, and failures."""

import asyncio
import importlib
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.status.nvml import Gpus, watch_gpus
from daemon.telemetry.metrics import Metrics
from tests.support.monitoring.samples import samples_of
from tests.support.nvml.fake import GPU_IS_LOST, NOT_SUPPORTED, FakeNvml


def opened(metrics: Metrics, nvml: FakeNvml) -> Gpus:
    gpus = Gpus.open(metrics, nvml)
    assert gpus is not None
    return gpus


def gpu_samples(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in samples_of(metrics).items() if "_gpu_" in name}


def test_every_gpu_is_measured() -> None:
    metrics = Metrics()
    opened(metrics, FakeNvml(gpus=2)).sample()
    found = gpu_samples(metrics)
    for gpu in "01":
        assert found[f'transcriptd_gpu_memory_used_bytes{{gpu="{gpu}"}}'] == 3 * 2**30
        assert found[f'transcriptd_gpu_memory_size_bytes{{gpu="{gpu}"}}'] == 24 * 2**30
        assert found[f'transcriptd_gpu_utilisation_ratio{{gpu="{gpu}"}}'] == 0.85
        assert found[f'transcriptd_gpu_temperature_celsius{{gpu="{gpu}"}}'] == 71
        assert found[f'transcriptd_gpu_query_failures_total{{gpu="{gpu}"}}'] == 0


@pytest.mark.parametrize("call", ["init", "count"])
async def test_without_a_driver_nothing_is_exported(call: str) -> None:
    metrics = Metrics()
    await watch_gpus(metrics, FakeNvml(errors={call: 9}))
    assert gpu_samples(metrics) == {}


async def test_failure_in_the_sampling_thread_ends_the_task() -> None:
    class Broken(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await watch_gpus(Metrics(), Broken())


def test_real_library_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the daemon. The machine need not have a driver."""
    pynvml = importlib.import_module("pynvml")

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert Gpus.open(Metrics()) is None


def test_unsupported_values_are_absent_and_no_failure() -> None:
    metrics = Metrics()
    opened(metrics, FakeNvml(errors={"rates": NOT_SUPPORTED, "events": NOT_SUPPORTED})).sample()
    found = gpu_samples(metrics)
    assert not any("utilisation" in name for name in found)
    assert found['transcriptd_gpu_memory_used_bytes{gpu="0"}'] > 0
    assert found['transcriptd_gpu_query_failures_total{gpu="0"}'] == 0


def test_lost_gpu_is_counted_and_its_last_values_are_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    metrics, nvml = Metrics(), FakeNvml()
    gpus = opened(metrics, nvml)
    gpus.sample()
    nvml.errors = dict.fromkeys(("memory", "rates", "temperature"), GPU_IS_LOST)
    gpus.sample()
    gpus.sample()
    assert gpu_samples(metrics) == {'transcriptd_gpu_query_failures_total{gpu="0"}': 2}
    nvml.errors = {}
    gpus.sample()
    assert gpu_samples(metrics)['transcriptd_gpu_temperature_celsius{gpu="0"}'] == 71
    assert [record.message for record in caplog.records] == ["GPU not responding", "GPU responding again"]


def test_xid_errors_are_counted_by_gpu_and_number() -> None:
    metrics = Metrics()
    nvml = FakeNvml(gpus=2, xids=[(1, 79), (1, 79), (0, 31), (0, 2**40)])
    gpus = opened(metrics, nvml)
    gpus.sample()
    gpus.sample()
    counted = {name: value for name, value in gpu_samples(metrics).items() if "xid_errors_total" in name}
    assert counted == {
        'transcriptd_gpu_xid_errors_total{gpu="1",xid="79"}': 2,
        'transcriptd_gpu_xid_errors_total{gpu="0",xid="31"}': 1,
        'transcriptd_gpu_xid_errors_total{gpu="0",xid="other"}': 1,
    }
