"""Fingerprint of everything in the pipeline that affects a transcript. Imports none of the libraries that it names."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata

from daemon.protocol.runner_settings import RunnerSettings

# Increment when the file format changes, or when the pipeline produces a different result from the same input, such as
# after a change to chunking, decoding, alignment or diarization.
CHECKPOINT_VERSION = 8

# Settings that cannot change a transcript. All others are part of the fingerprint.
IRRELEVANT_SETTINGS = frozenset(
    {
        "max_loaded_models",  # how many models stay loaded, not which one runs a job
        "device",  # changes rounding only; the compute type that follows from it is stored in each checkpoint
        "batch_size",  # a transcript must not depend on it, because jobs share batches (test_many_jobs.py)
        "cpu_threads",  # like batch_size: it only changes how work is distributed over threads
        "weights_manifest",  # which weights are accepted, not what is done with them
        "require_pinned_weights",
        "hf_token",  # a secret; the diarization pipeline that it gives access to is listed in `models`
    }
)

# Distributions whose code affects a transcript. `av` decodes the recording, in another process of the same environment.
LIBRARIES = (
    "av",
    "ctranslate2",
    "faster-whisper",
    "numpy",
    "pyannote.audio",
    "pyannote.core",
    "scikit-learn",
    "scipy",
    "torch",
    "torchaudio",
    "transformers",
    "whisperx",
)


def fingerprint(settings: RunnerSettings, models: Mapping[str, str]) -> str:
    """Compute the fingerprint. `models` maps stages to models, because some settings leave them to the machine."""
    relevant = {name: value for name, value in asdict(settings).items() if name not in IRRELEVANT_SETTINGS}
    parts = {
        "format": CHECKPOINT_VERSION,
        "settings": relevant,
        "models": dict(models),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
