"""The part of the settings that the runner process needs."""

from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Plain values, with the meaning of the field of the same name in config.Settings, except `device` and `cpu_threads`.

    A new field changes the fingerprint of checkpoints unless pipeline/checkpoints/fingerprint.py excludes it.
    """

    model: str
    models: tuple[str, ...]
    max_loaded_models: int
    device: str  # auto, cuda or cpu: the process sees only its own GPU
    compute_type: str
    batch_size: int
    unpadded_models: tuple[str, ...]
    cpu_threads: int  # for this process; 0 means all cores
    diarization_model: str
    alignment_models: tuple[str, ...]
    hf_token: str | None = field(repr=False)
    weights_manifest: str | None
    require_pinned_weights: bool

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Build the settings from decoded JSON. Raises ValueError, without values, if the fields do not match."""
        if not isinstance(data, dict) or set(data) != {each.name for each in fields(cls)}:
            raise ValueError("the runner settings have unexpected or missing fields")
        values: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in data.items()}
        return cls(**values)
