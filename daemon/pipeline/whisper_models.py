"""The Whisper models in memory, as whisperx loads them."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

# Sampling (gates.py) is random. CTranslate2 takes a seed once per thread, not per job: what is sampled differs from run to
# run.
SEED = 0

_numeral_tokens: WeakKeyDictionary[WhisperModel, list[int]] = WeakKeyDictionary()


class WhisperModels:
    """The Whisper models in memory, at most `resident` of them; the least recently used one leaves, once nobody uses it."""

    def __init__(self, sources: Sequence[str], resident: int, device: Device, hf_token: str | None) -> None:
        self._sources = {model_name(source): source for source in reversed(sources)}
        self.resident = resident
        self._device = device
        self._hf_token = hf_token
        self._changed = threading.Condition()
        self._models: OrderedDict[tuple[str, str], WhisperModel] = OrderedDict()
        self._users: Counter[tuple[str, str]] = Counter()
        ctranslate2.set_random_seed(SEED)

    @property
    def usual_type(self) -> str:
        return self._device.compute_type

    @contextmanager
    def borrowed(self, name: str, compute_type: str | None = None) -> Iterator[WhisperModel]:
        """The model of that name, in the usual type or another, loaded (and downloaded) if need be; in memory until the end
        of the block.

        Raises ModelUnavailable, OutOfMemory or DeviceFault.
        """
        key = name, compute_type or self.usual_type
        with self._changed:
            while key not in self._models:
                if len(self._models) >= self.resident:
                    self._make_room()
                    continue
                free_memory()
                self._models[key] = self._load(self._sources.get(name, name), key[1])
            self._models.move_to_end(key)
            self._users[key] += 1
            model = self._models[key]
        try:
            yield model
        finally:
            with self._changed:
                self._users[key] -= 1
                self._changed.notify_all()

    def unload_all(self) -> None:
        with self._changed:
            while self._models:
                self._make_room()

    def _make_room(self) -> None:
        """Unload a model, or wait until one may be."""
        idle = next((key for key in self._models if not self._users[key]), None)
        if idle is None:
            self._changed.wait()
        else:
            # Jobs refer to a model for its tokenizer: forgetting it would not free its memory.
            self._models.pop(idle).model.unload_model()

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
                    cpu_threads=1,  # lanes.py says why; a GPU needs none
                    num_workers=self._device.lanes,
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
