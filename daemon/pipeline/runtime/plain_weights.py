"""Weights are data: PyTorch loads them without running any code that a file contains.

A pickle may name any function and have it called. pyannote and torchaudio ask PyTorch for unrestricted pickles;
TORCH_FORCE_WEIGHTS_ONLY_LOAD (library_output.py) overrules them. https://pytorch.org/docs/stable/notes/serialization.html
"""

import pickle
from collections import defaultdict
from typing import Any

import torch
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.listconfig import ListConfig
from omegaconf.nodes import AnyNode
from pyannote.audio.core.model import Introspection
from pyannote.audio.core.task import Problem, Resolution, Specifications
from torch.torch_version import TorchVersion


def _enum_member(owner: Any, name: Any) -> Any:
    """Stand in for `getattr`, by which Python 3.11 pickles the members of an enumeration."""
    if owner not in (Problem, Resolution):
        raise pickle.UnpicklingError(f"the file reads the attribute {name!r} of {owner!r}")
    return owner[name]


# What pyannote's checkpoints contain besides tensors: descriptions of the task, and the settings of the training.
HARMLESS = (
    (_enum_member, "builtins.getattr"),
    *(Specifications, Problem, Resolution, Introspection, TorchVersion),
    *(ListConfig, AnyNode, Metadata, ContainerMetadata),
    *(Any, list, dict, int, defaultdict),
)


def allow_pyannote_checkpoints() -> None:
    """Let PyTorch load pyannote's checkpoints in its restricted mode."""
    torch.serialization.add_safe_globals(list(HARMLESS))


def runs_code(error: BaseException | None) -> bool:
    """Return whether loading failed because the file wanted something run, or is no file of weights at all."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError):
            return True
        error = error.__cause__ or error.__context__
    return False
