"""`python -m daemon.pipeline.probe DEVICE`: what torch and CTranslate2 say of this machine, as one JSON line.

For `transcriptd check`, which imports neither. Only `Facts` may be imported elsewhere: the libraries are loaded by main.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Facts:
    torch: str  # version
    torch_cuda: str | None  # the CUDA version that torch was built for; None without CUDA
    driver: str | None  # version of the NVIDIA kernel driver
    cuda: bool  # torch can use a GPU, and DEVICE is not cpu
    device_name: str
    free_bytes: int  # of the device
    total_bytes: int
    cudnn: int | None  # 91002 is 9.10.2
    torch_error: str | None  # what went wrong in a computation on the device
    ctranslate2: str  # version
    compute_types: list[str]  # of the device that would be used
    ctranslate2_error: str | None  # why it cannot use CUDA where torch can
    repositories: dict[str, str]  # faster-whisper's names of models, and where they are on the hub


def main() -> None:
    from daemon.pipeline.quiet import prepare_environment

    prepare_environment(None)
    import ctranslate2
    import torch
    from faster_whisper.utils import _MODELS

    cuda = sys.argv[1] != "cpu" and torch.cuda.is_available()
    name, (free_bytes, total_bytes) = "", (0, 0)
    torch_error = None
    if cuda:
        name = torch.cuda.get_device_name()
        _, torch_error = _attempt(_compute)
        memory, _ = _attempt(torch.cuda.mem_get_info)
        free_bytes, total_bytes = memory or (0, 0)
    cudnn, cudnn_error = _attempt(torch.backends.cudnn.version)
    types, ctranslate2_error = _attempt(lambda: ctranslate2.get_supported_compute_types("cuda" if cuda else "cpu"))
    facts = Facts(
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        driver=_driver(),
        cuda=cuda,
        device_name=name,
        free_bytes=free_bytes,
        total_bytes=total_bytes,
        cudnn=cudnn,
        torch_error=torch_error or (cudnn_error if cuda else None),
        ctranslate2=ctranslate2.__version__,
        compute_types=sorted(types or ()),
        ctranslate2_error=ctranslate2_error,
        repositories=dict(_MODELS),
    )
    print(json.dumps(asdict(facts)))


def _attempt(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What the call returns, or the words of its error: a library that does not load is what is looked for."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001  # those of torch and CTranslate2 share no base class
        return None, str(error).partition("\n")[0] or type(error).__name__


def _compute() -> None:
    """A convolution needs a kernel for this GPU, cuBLAS or cuDNN: a driver, or an architecture, that does not fit shows."""
    import torch

    signal = torch.ones(1, 8, 64, device="cuda", dtype=torch.float16)
    weights = torch.ones(8, 8, 3, device="cuda", dtype=torch.float16)
    torch.nn.functional.conv1d(signal, weights)
    torch.cuda.synchronize()


def _driver() -> str | None:
    try:
        found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", DRIVER_FILE.read_text())
    except OSError:
        return None
    return found[0] if found else None


if __name__ == "__main__":
    main()
