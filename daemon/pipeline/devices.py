"""The device the models run on: choosing it, and telling its failures from all others."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from daemon.errors import SetupFailed
from daemon.pipeline.quiet import Shared


@dataclass(frozen=True, slots=True)
class Device:
    type: str  # cuda or cpu
    name: str  # for people
    compute_type: str  # CTranslate2's
    lanes: int  # how much is computed side by side, with one thread each: the cores of a CPU; a GPU is one


class Failure(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"  # a smaller batch may work
    DEVICE = "device"  # CUDA is broken in this process
    OTHER = "other"  # the library or the audio: another method may work


# From the messages of PyTorch, CTranslate2, cuBLAS and cuDNN; they share no exception classes.
OUT_OF_MEMORY_MARKS = ("out of memory", "alloc_failed", "can't allocate memory", "cannot allocate memory")
DEVICE_MARKS = ("cuda", "cudnn", "cublas", "cufft", "nvrtc", "device-side assert")


def choose_device(device: str, compute_type: str, cpu_threads: int) -> Device:
    """The device to use; also sets PyTorch's CPU threads.

    Raises SetupFailed when it must be CUDA and there is none.
    """
    cores = cpu_threads or len(os.sched_getaffinity(0))
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupFailed(
            "PyTorch finds no usable GPU; check the NVIDIA driver (nvidia-smi), or set TRANSCRIPTD_DEVICES=cpu"
        )
    if device != "cpu" and torch.cuda.is_available():
        torch.set_num_threads(cores)  # for what is done beside the GPU
        name = torch.cuda.get_device_name()
        return Device("cuda", name, "float16" if compute_type == "auto" else compute_type, lanes=1)
    torch.set_num_threads(1)  # lanes.py says why
    return Device("cpu", _cpu_name(), "int8" if compute_type == "auto" else compute_type, lanes=cores)


def classify(error: BaseException) -> Failure:
    """What kind of failure an exception of any of the libraries is, by its type and message."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Failure.OUT_OF_MEMORY
    message = str(error).lower()
    if any(mark in message for mark in OUT_OF_MEMORY_MARKS):
        return Failure.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(mark in message for mark in DEVICE_MARKS):
        return Failure.DEVICE
    return Failure.OTHER


def free_memory() -> None:
    """Give PyTorch's cached blocks back, so that CTranslate2 and the next attempt can have them."""
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


# TF32 is off inside the block, and as it was after it. pyannote wants it off, since speaker embeddings suffer, and
# switches it off for the whole process.
exact_float32 = Shared(_without_tf32)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
