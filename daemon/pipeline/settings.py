"""The part of the settings that the runner process needs; it crosses to that process as one JSON object."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from daemon.config import Settings
from daemon.devices import Device


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Plain values only. Their meaning is config.Settings' field of the same name, but for `device` and `cpu_threads`."""

    model: str
    models: tuple[str, ...]
    models_resident: int
    device: str  # auto, cuda or cpu: this process sees no GPU but its own
    compute_type: str
    batch_size: int
    short_context_models: tuple[str, ...]
    cpu_threads: int  # of this process; 0 takes all cores
    diarization_model: str
    alignment_models: tuple[str, ...]
    hf_token: str | None

    @classmethod
    def from_settings(cls, settings: Settings, device: Device) -> Self:
        return cls(
            model=settings.model,
            models=settings.models,
            models_resident=settings.models_resident,
            device=device.kind,
            compute_type=settings.compute_type,
            batch_size=settings.batch_size,
            short_context_models=settings.short_context_models,
            cpu_threads=device.cpu_threads,
            diarization_model=settings.diarization_model,
            alignment_models=settings.alignment_models,
            hf_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
        )

    def to_json(self) -> str:
        """Contains the token: for the runner's stdin, never for a log or an argument list."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})
