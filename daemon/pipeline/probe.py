"""`python -m daemon.pipeline.probe DEVICE`: print what torch and CTranslate2 report about this machine, as a JSON line.

`transcriptd check` runs it because it imports neither library.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daemon.protocol.probe import ProbeResult

DRIVER_FILE = Path("/proc/driver/nvidia/version")


def main() -> None:
    from daemon.pipeline.runtime.cublas import load_cublas
    from daemon.pipeline.runtime.library_output import prepare_environment

    prepare_environment(None)
    import ctranslate2
    import torch

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
    if cuda and not ctranslate2_error:
        _, ctranslate2_error = _attempt(load_cublas)
    facts = ProbeResult(
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
    )
    print(json.dumps(asdict(facts)))


def _attempt(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return the call's result or its error message: a library that fails to load is a finding, not a crash."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001  # torch and CTranslate2 errors share no base class
        return None, str(error).partition("\n")[0] or type(error).__name__


def _compute() -> None:
    """Run a convolution. It needs cuDNN and a kernel for this GPU: an unsuitable driver or architecture fails here."""
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
