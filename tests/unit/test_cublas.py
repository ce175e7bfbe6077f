"""CTranslate2 opens libcublas.so.12 by that name, which the dynamic loader does not find in a Python package."""

import subprocess
import sys

FIND = """
import ctypes
from daemon.pipeline.runtime.cublas import load_cublas
try:
    ctypes.CDLL("libcublas.so.12")
    print("in the system")
except OSError:
    load_cublas()
    ctypes.CDLL("libcublas.so.12").cublasCreate_v2
    print("in the package")
"""


def test_the_library_is_found_by_its_name_once_it_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("in the system", "in the package")
