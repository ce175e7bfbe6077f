"""cuBLAS 12 for CTranslate2, which opens `libcublas.so.12` at its first computation on a GPU.

PyTorch uses cuBLAS 13. The dynamic loader does not search Python packages, but it finds a library by its name once that
library is loaded. The symbols of both versions carry their version, so that both can be loaded in one process.
"""

import ctypes
from importlib import metadata
from pathlib import Path

PACKAGE = "nvidia-cublas-cu12"
LIBRARY = "nvidia/cublas/lib/libcublas.so.12"  # it finds libcublasLt.so.12 in its own folder


def load_cublas() -> None:
    """Load the library for the whole process. Raises OSError if there is none.

    Without the package, which exists for Linux on x86-64 only, the system must have the library.
    """
    try:
        path = str(Path(str(metadata.distribution(PACKAGE).locate_file(LIBRARY))))
    except metadata.PackageNotFoundError:
        path = Path(LIBRARY).name
    ctypes.CDLL(path)
