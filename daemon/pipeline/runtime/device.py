"""Choose the device that the models run on, and classify its failures."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from daemon.errors import SetupFailed
from daemon.pipeline.runtime.cublas import load_cublas
from daemon.pipeline.runtime.library_output import RefCountedContext


@dataclass(frozen=True, slots=True)
class ComputeDevice:
    type: str  # cuda or cpu
    name: str  # display name
    compute_type: str  # as CTranslate2 names it
    lanes: int  # single-threaded computations that run in parallel: the cores of a CPU, 1 for a GPU


class Failure(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"  # a smaller batch may work
    DEVICE = "device"  # CUDA is broken in this process
    OTHER = "other"  # caused by the library or the audio: another method may work


# Parts of the error messages of PyTorch, CTranslate2, cuBLAS and cuDNN, which share no exception classes.
OUT_OF_MEMORY_MARKS = ("out of memory", "alloc_failed", "can't allocate memory", "cannot allocate memory")
DEVICE_MARKS = ("cuda", "cudnn", "cublas", "cufft", "nvrtc", "device-side assert")


def choose_device(device: str, compute_type: str, cpu_threads: int) -> ComputeDevice:
    """Choose the device and set PyTorch's number of CPU threads.

    Raises SetupFailed when `device` is cuda and there is no usable GPU, and OSError when CTranslate2 could not use it.
    """
    cores = cpu_threads or len(os.sched_getaffinity(0))
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupFailed(
            "PyTorch found no usable GPU; check the NVIDIA driver (nvidia-smi), or set TRANSCRIPTD_DEVICES=cpu"
        )
    if device != "cpu" and torch.cuda.is_available():
        load_cublas()
        torch.set_num_threads(cores)  # for work that runs on the CPU alongside the GPU
        name = torch.cuda.get_device_name()
        return ComputeDevice("cuda", name, "float16" if compute_type == "auto" else compute_type, lanes=1)
    torch.set_num_threads(1)  # see worker_pool.py
    return ComputeDevice("cpu", _cpu_name(), "int8" if compute_type == "auto" else compute_type, lanes=cores)


def classify(error: BaseException) -> Failure:
    """Classify a library's exception by its type and message."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Failure.OUT_OF_MEMORY
    message = str(error).lower()
    if any(mark in message for mark in OUT_OF_MEMORY_MARKS):
        return Failure.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(mark in message for mark in DEVICE_MARKS):
        return Failure.DEVICE
    return Failure.OTHER


def free_memory() -> None:
    """Release PyTorch's cached blocks for CTranslate2 and for the next attempt."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


# Disable TF32 inside the block and restore it afterwards. pyannote requires it off, because it degrades speaker
# embeddings, and would disable it for the whole process.
exact_float32 = RefCountedContext(_without_tf32)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
