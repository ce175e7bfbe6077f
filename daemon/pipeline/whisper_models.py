"""The Whisper models in memory, as whisperx loads them."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import ctranslate2
from faster_whisper.tokenizer import Tokenizer
from whisperx.asr import WhisperModel

from daemon.catalog import model_name
from daemon.errors import DeviceFault, ModelUnavailable, OutOfMemory
from daemon.pipeline.devices import Device, Failure, classify, free_memory
from daemon.pipeline.numerals import has_numerals
from daemon.pipeline.quiet import quietly

# Sampling (gates.py) is random. CTranslate2 takes a seed once per thread, not per job: runs of one process differ, those
# of two processes with the same jobs do not.
SEED = 0

_numeral_tokens: WeakKeyDictionary[WhisperModel, list[int]] = WeakKeyDictionary()


class WhisperModels:
    """The Whisper models in memory, at most `resident` of them; the least recently used one leaves. For one thread."""

    def __init__(self, sources: Sequence[str], resident: int, device: Device, hf_token: str | None) -> None:
        self._sources = {model_name(source): source for source in reversed(sources)}
        self.resident = resident
        self._device = device
        self._hf_token = hf_token
        self._models: OrderedDict[tuple[str, str], WhisperModel] = OrderedDict()
        ctranslate2.set_random_seed(SEED)

    @property
    def usual_type(self) -> str:
        return self._device.compute_type

    def get(self, name: str, compute_type: str | None = None) -> WhisperModel:
        """The model of that name, in the usual type or another, loaded (and downloaded) if need be.

        Raises ModelUnavailable, OutOfMemory or DeviceFault.
        """
        key = name, compute_type or self.usual_type
        if key not in self._models:
            while len(self._models) >= self.resident:
                self._unload(next(iter(self._models)))
            free_memory()
            self._models[key] = self._load(self._sources.get(name, name), key[1])
        self._models.move_to_end(key)
        return self._models[key]

    def unload_all(self) -> None:
        for key in list(self._models):
            self._unload(key)

    def _unload(self, key: tuple[str, str]) -> None:
        # Jobs refer to a model for its tokenizer: forgetting it would not free its memory.
        self._models.pop(key).model.unload_model()

    def _load(self, source: str, compute_type: str) -> WhisperModel:
        if source.startswith(("/", ".", "~")) and not (Path(source) / "model.bin").is_file():
            raise ModelUnavailable(
                f"the Whisper model {source} is not a folder with a model.bin in CTranslate2's format"
            )
        try:
            with quietly():
                return WhisperModel(
                    source,
                    device=self._device.type,
                    compute_type=compute_type,
                    cpu_threads=self._device.threads,
                    use_auth_token=self._hf_token,
                )
        except Exception as error:  # hub, file, CTranslate2 and CUDA errors share no base class
            failure = classify(error)
            if failure is Failure.OUT_OF_MEMORY:
                raise OutOfMemory(f"the Whisper model {source} does not fit into memory: {error}") from error
            if failure is Failure.DEVICE:
                raise DeviceFault(f"CUDA failed while the Whisper model {source} was loaded: {error}") from error
            raise ModelUnavailable(
                f"the Whisper model {source} could not be loaded: {error}; check its name, the network and HF_TOKEN, "
                "or name a folder"
            ) from error


def numeral_tokens(model: WhisperModel, tokenizer: Tokenizer) -> list[int]:
    """The tokens with numerals, read once from a model's vocabulary of 50 000: that takes a second."""
    if model not in _numeral_tokens:
        _numeral_tokens[model] = [token for token in range(tokenizer.eot) if has_numerals(tokenizer.decode([token]))]
    return _numeral_tokens[model]
