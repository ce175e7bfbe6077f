"""Load Whisper models as whisperx does, and keep them in memory."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import ctranslate2
from faster_whisper.tokenizer import Tokenizer
from whisperx.asr import WhisperModel

from daemon.errors import DeviceFault, ModelUnavailable, OutOfMemory
from daemon.pipeline.asr.numerals import has_numerals
from daemon.pipeline.runtime.device import ComputeDevice, Failure, classify, free_memory
from daemon.pipeline.runtime.library_output import suppress_library_output
from daemon.schema.catalog import model_name
from daemon.telemetry.redaction import describe
from daemon.weights.verified import VerifiedWeights

# Sampling (decoding.py) is random. CTranslate2 accepts a seed per thread, not per job, so sampled text differs from run
# to run.
SEED = 0

_numeral_tokens: WeakKeyDictionary[WhisperModel, list[int]] = WeakKeyDictionary()


class WhisperModels:
    """Cache of at most `resident` Whisper models. Evicts the least recently used model that is not in use."""

    def __init__(
        self,
        sources: Sequence[str],
        resident: int,
        device: ComputeDevice,
        hf_token: str | None,
        weights: VerifiedWeights | None = None,
    ) -> None:
        self._weights = weights or VerifiedWeights.from_environment(hf_token=hf_token)
        self._sources = {model_name(source): source for source in reversed(sources)}
        self.resident = resident
        self._device = device
        self._hf_token = hf_token
        self._changed = threading.Condition()
        self._models: OrderedDict[tuple[str, str], WhisperModel] = OrderedDict()
        self._users: Counter[tuple[str, str]] = Counter()
        ctranslate2.set_random_seed(SEED)

    @property
    def default_compute_type(self) -> str:
        return self._device.compute_type

    @contextmanager
    def borrowed(self, name: str, compute_type: str | None = None) -> Iterator[WhisperModel]:
        """Keep the model in memory for the block; load or download it if necessary.

        `compute_type` defaults to the device's. Raises ModelUnavailable, OutOfMemory or DeviceFault.
        """
        key = name, compute_type or self.default_compute_type
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
        """Unload an idle model, or wait until a model may have become idle."""
        idle = next((key for key in self._models if not self._users[key]), None)
        if idle is None:
            self._changed.wait()
        else:
            # Jobs keep a reference to a model for its tokenizer, so dropping ours would not free its memory.
            self._models.pop(idle).model.unload_model()

    def _load(self, source: str, compute_type: str) -> WhisperModel:
        if source.startswith(("/", ".", "~")) and not (Path(source) / "model.bin").is_file():
            raise ModelUnavailable(
                f"the Whisper model {source} is not a folder with a model.bin in CTranslate2's format"
            )
        verified = self._weights.whisper(source)
        try:
            with suppress_library_output():
                return WhisperModel(
                    str(verified or source),
                    device=self._device.type,
                    compute_type=compute_type,
                    cpu_threads=1,  # see worker_pool.py; unused on a GPU
                    num_workers=self._device.lanes,
                    use_auth_token=self._hf_token,
                )
        except Exception as error:  # hub, file, CTranslate2 and CUDA errors share no base class
            failure = classify(error)
            if failure is Failure.OUT_OF_MEMORY:
                raise OutOfMemory(f"the Whisper model {source} does not fit into memory: {describe(error)}") from error
            if failure is Failure.DEVICE:
                raise DeviceFault(f"CUDA failed while loading the Whisper model {source}: {describe(error)}") from error
            raise ModelUnavailable(
                f"cannot load the Whisper model {source}: {describe(error)}; check its name, the network and HF_TOKEN, or "
                "use a local folder"
            ) from error


def numeral_tokens(model: WhisperModel, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that contain numerals. Scanning the 50 000 tokens takes a second, so the result is cached."""
    if model not in _numeral_tokens:
        _numeral_tokens[model] = [token for token in range(tokenizer.eot) if has_numerals(tokenizer.decode([token]))]
    return _numeral_tokens[model]
