"""The output of `python -m daemon.pipeline.probe`: what torch and CTranslate2 report about this machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeResult:
    torch: str  # version
    torch_cuda: str | None  # the CUDA version that torch was built for; None without CUDA
    driver: str | None  # version of the NVIDIA kernel driver
    cuda: bool  # torch can use a GPU, and DEVICE is not cpu
    device_name: str
    free_bytes: int  # of the device
    total_bytes: int
    cudnn: int | None  # 91002 is 9.10.2
    torch_error: str | None  # error of a test computation on the device
    ctranslate2: str  # version
    compute_types: list[str]  # supported on the selected device
    ctranslate2_error: str | None  # why it cannot use CUDA although torch can
