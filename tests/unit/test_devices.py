"""The setting `devices`: valid values and the devices they select."""

import os

import pytest

from daemon.config import load_settings
from daemon.errors import ConfigError, SetupFailed
from daemon.supervisor.devices import Device, choose_devices
from tests.support.nvml.fake import FakeNvml

NO_DRIVER = FakeNvml(errors={"init": 9})


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TRANSCRIPTD_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def choose(devices: str, nvml: FakeNvml, cpu_threads: int = 0) -> list[Device]:
    given = load_settings(queue_url="a", dlq_url="b", devices=devices)
    return choose_devices(given.devices, cpu_threads, nvml)


def names(devices: str, nvml: FakeNvml) -> list[str]:
    return [device.name for device in choose(devices, nvml)]


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("", "name at least one device"),
        ("gpu", "gpu is not a device"),
        ("cuda:", "cuda: is not a device"),
        ("cuda:-1", "cuda:-1 is not a device"),
        ("cuda:01", "cuda:01 is not a device"),
        ("auto,cuda:0", "auto and cuda cannot be combined"),
        ("cpu,auto", "auto and cuda cannot be combined"),
        ("cuda,cuda", "auto and cuda cannot be combined"),
        ("cuda:1,cpu", "cannot be combined"),
        ("cuda:0,cuda:1,cuda:0", "cuda:0 is listed twice"),
    ],
)
def test_invalid_value_is_rejected(devices: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"TRANSCRIPTD_DEVICES: .*{words}"):
        load_settings(queue_url="a", dlq_url="b", devices=devices)


def test_auto_selects_every_gpu_or_the_cpu() -> None:
    assert load_settings(queue_url="a", dlq_url="b").devices == ("auto",)
    assert names("auto", FakeNvml(gpus=3)) == ["cuda:0", "cuda:1", "cuda:2"]
    assert names("auto", FakeNvml(gpus=0)) == ["cpu"]
    # A container may have CUDA without NVML, so the process checks CUDA itself.
    assert choose("auto", NO_DRIVER) == [Device("auto", "auto")]


def test_requested_gpu_must_exist() -> None:
    assert names("cuda", FakeNvml(gpus=2)) == ["cuda:0", "cuda:1"]
    assert names("cuda:2 cuda:0", FakeNvml(gpus=3)) == ["cuda:2", "cuda:0"]
    for devices, nvml, words in (
        ("cuda", NO_DRIVER, "NVML finds no GPU"),
        ("cuda", FakeNvml(gpus=0), "NVML finds no GPU"),
        ("cuda:0", NO_DRIVER, "NVML finds no GPU"),
        ("cuda:0,cuda:2", FakeNvml(gpus=2), "is cuda:0,cuda:2, but NVML finds cuda:0, cuda:1"),
    ):
        with pytest.raises(SetupFailed, match=words):
            choose(devices, nvml)


def test_process_sees_only_its_own_gpu_numbered_as_in_nvml() -> None:
    one, other = choose("cuda:3,cuda:1", FakeNvml(gpus=4))
    assert one.environment == {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert other.environment == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert (one.kind, other.kind) == ("cuda", "cuda")


@pytest.mark.parametrize(
    ("visible", "entries"),
    [
        ("2,0", ["2", "0"]),
        (" GPU-8932f937 , MIG-b1a5", ["GPU-8932f937", "MIG-b1a5"]),
        ("1,-1,0", ["1"]),  # as in CUDA: entries after an invalid one are ignored
        ("0,7,1", ["0"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_devices_hidden_by_the_operator_stay_hidden(
    monkeypatch: pytest.MonkeyPatch, visible: str, entries: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = choose("auto", FakeNvml(gpus=4))
    if not entries:
        assert [device.name for device in chosen] == ["cpu"]
        return
    assert [device.name for device in chosen] == [f"cuda:{number}" for number in range(len(entries))]
    assert [device.environment for device in chosen] == [{"CUDA_VISIBLE_DEVICES": entry} for entry in entries]
    with pytest.raises(SetupFailed):
        choose(f"cuda:{len(entries)}", FakeNvml(gpus=4))


def test_runners_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def threads(devices: str, cpu_threads: int = 0) -> list[tuple[str, int]]:
        return [(it.name, it.cpu_threads) for it in choose(devices, FakeNvml(gpus=3), cpu_threads)]

    assert threads("cpu") == [("cpu", 0)]
    assert threads("cpu,cpu") == [("cpu:0", 4), ("cpu:1", 4)]
    assert threads("cpu,cpu", cpu_threads=3) == [("cpu:0", 3), ("cpu:1", 3)]
    assert threads("cuda") == [("cuda:0", 2), ("cuda:1", 2), ("cuda:2", 2)]
    assert threads(",".join(["cpu"] * 9)) == [(f"cpu:{number}", 1) for number in range(9)]
