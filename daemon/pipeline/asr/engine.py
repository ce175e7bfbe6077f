"""The Whisper engine: all Whisper calls of this process run here.

Each job has a `WhisperSession`, whose calls look as if it had the model to itself. Internally, chunks of all jobs share
batches (schedule.py), and each lane of the device runs one batch at a time. A replacement engine must provide the same
session methods.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import ctranslate2
import numpy as np
import torch
from faster_whisper.tokenizer import Tokenizer
from whisperx.asr import WhisperModel

from daemon.pipeline.asr.language import Probabilities
from daemon.pipeline.asr.whisper_models import WhisperModels
from daemon.pipeline.runtime.batcher import Batcher
from daemon.pipeline.runtime.device import ComputeDevice
from daemon.pipeline.runtime.schedule import BatchKey, Owner
from daemon.pipeline.runtime.work import StageTimer
from daemon.protocol.events import BatchDecoded

T = TypeVar("T")
FULL_FRAMES = 1500  # encoder frames for 30 s

# Encoder batch size where it is smaller than the decoder's: on a CPU, the activations of one chunk fit into the caches.
# With several chunks they do not, and each chunk takes longer than alone.
MAX_ENCODER_BATCH_SIZE = {"cpu": 1}
ModelKey = tuple[str, str]  # name and compute type; identifies a model in memory


class _Encoded:
    """The encoder's output for a batch, on the device that computed it."""

    def __init__(self, view: ctranslate2.StorageView) -> None:
        self.view = view
        self._rows: list[np.ndarray] | None = None

    def rows(self) -> list[np.ndarray]:
        """Return the chunks' encodings separately, in host memory: float32, (frames, width) each."""
        if self._rows is None:
            view = self.view.to(ctranslate2.DataType.float32)  # NumPy has no bfloat16; the conversion is lossless
            self._rows = list(np.array(view.to_device(ctranslate2.Device.cpu)))
        return self._rows


@dataclass(frozen=True, eq=False, slots=True)
class Encoding:
    """The encoder's output for one chunk. Only encodings with equal `frames` share a batch."""

    batch: _Encoded
    row: int

    @property
    def frames(self) -> int:
        return int(self.batch.view.shape[1])

    @property
    def is_short(self) -> bool:
        """Whether the chunk was encoded without padding to Whisper's 30 s."""
        return self.frames < FULL_FRAMES


def gather(encodings: Sequence[Encoding]) -> ctranslate2.StorageView:
    """Combine encodings into a batch. If they are one encoder batch, complete and in order, reuse it on the device."""
    whole = encodings[0].batch
    if all(it.batch is whole for it in encodings) and [it.row for it in encodings] == list(range(whole.view.shape[0])):
        return whole.view
    return ctranslate2.StorageView.from_array(np.stack([it.batch.rows()[it.row] for it in encodings]))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Properties of a model. Use `model` only for its tokenizer and prompts: the weights may be unloaded by now."""

    model: WhisperModel
    device: str  # cuda or cpu
    mels: int
    multilingual: bool

    @classmethod
    def of(cls, model: WhisperModel) -> "ModelInfo":
        return cls(model, model.model.device, model.model.n_mels, model.model.is_multilingual)


class Engine:
    """The Whisper models of this process and the threads that run them."""

    def __init__(self, models: WhisperModels, device: ComputeDevice) -> None:
        self._models = models
        self._max_encoder_batch_size = MAX_ENCODER_BATCH_SIZE.get(device.type)
        self._batcher = Batcher(self._execute, models.resident, device.lanes)

    @contextmanager
    def session(self, model: str, max_batch_size: int, timer: StageTimer) -> Iterator["WhisperSession"]:
        """Open a job's session with the named model, in batches of at most `max_batch_size`.

        The session's calls raise ModelUnavailable, OutOfMemory or DeviceFault if the model cannot be loaded,
        Interrupted when the job is cancelled, and CTranslate2's errors.
        """
        session = WhisperSession(
            self._batcher,
            Owner((model, self._models.default_compute_type), timer.priority),
            max_batch_size,
            self._max_encoder_batch_size,
            timer,
        )
        with self._batcher.member(session.owner):
            yield session

    def _execute(self, key: BatchKey, payloads: list[Any]) -> Sequence[Any]:
        name, compute_type = cast(ModelKey, key.model)
        if key.operation == "shrink":
            self._models.unload_all()
        with self._models.borrowed(name, compute_type) as model:
            return _OPERATIONS[key.operation](model, key.terms, payloads)


class WhisperSession:
    """One job's access to the engine. Results are in the order of the arguments."""

    def __init__(
        self, batcher: Batcher, owner: Owner, max_batch_size: int, max_encoder_batch_size: int | None, timer: StageTimer
    ) -> None:
        self.owner = owner
        self.max_batch_size = max_batch_size
        self._max_encoder_batch_size = max_encoder_batch_size
        self._batcher = batcher
        self._timer = timer
        self._about: ModelInfo | None = None

    @property
    def about(self) -> ModelInfo:
        """Properties of the model. The first access loads the model if necessary."""
        if self._about is None:
            self._about = self.call(ModelInfo.of)
        return self._about

    def encode(self, features: Sequence[torch.Tensor]) -> list[Encoding]:
        """Encode log-mel spectrograms, (mels, frames) each, on the model's device."""
        return self._by_terms("encode", [it.shape[1] for it in features], features)

    def detect_languages(self, encodings: Sequence[Encoding]) -> list[Probabilities]:
        """Return each chunk's language probabilities. Costs one decoder step."""
        return self._by_terms("detect", [it.frames for it in encodings], encodings)

    def generate(
        self, encodings: Sequence[Encoding], prompts: Sequence[list[int]], max_tokens: Sequence[int], **settings: Any
    ) -> list[Any]:
        """Return CTranslate2's WhisperGenerationResult for each encoding, of at most `max_tokens` tokens each.

        Items share a batch only if their token limit, prompt length and position of `<|startoftranscript|>` are equal.
        """
        terms = tuple(sorted((name, _freeze(value)) for name, value in settings.items()))
        sot = self.about.model.hf_tokenizer.token_to_id("<|startoftranscript|>")
        payloads = list(zip(encodings, prompts, strict=True))
        return self._by_terms(
            "generate",
            [
                (it.frames, prompt.index(sot), len(prompt), most, terms)
                for (it, prompt), most in zip(payloads, max_tokens, strict=True)
            ],
            payloads,
        )

    def find_alignment(
        self, tokenizer: Tokenizer, tokens: Sequence[list[int]], encodings: Sequence[Encoding], frames: Sequence[int]
    ) -> list[list[dict[str, Any]]]:
        """Return the words of each chunk's tokens with their times, as WhisperModel.find_alignment does."""
        # Do not batch across jobs: with int8 on a CPU, the rest of the batch changes word scores in the second decimal.
        language = (self.owner.age, tuple(tokenizer.sot_sequence), tokenizer.language_code)
        payloads = [(it, tokenizer, *rest) for it, *rest in zip(encodings, tokens, frames, strict=True)]
        return self._by_terms("align", [(it.frames, language) for it in encodings], payloads)

    def call(self, action: Callable[[WhisperModel], T]) -> T:
        """Run the action alone and return its result."""
        result: T = self._do("call", object(), [action])[0]
        return result

    def shrink(self, compute_type: str) -> None:
        """Switch to a smaller compute type. Unloads all models first, because memory ran out."""
        name, _ = cast(ModelKey, self.owner.model)
        self.owner.model = (name, compute_type)
        (self._about,) = self._do("shrink", object(), [ModelInfo.of])

    # --- requests -------------------------------------------------------------------------------------------------

    def _by_terms(self, operation: str, terms: Sequence[Hashable], payloads: Sequence[Any]) -> list[Any]:
        """Submit payloads with equal terms together. The terms include the length, which is fixed per batch."""
        found: dict[int, Any] = {}
        for term in dict.fromkeys(terms):
            indexes = [index for index, other in enumerate(terms) if other == term]
            found |= zip(indexes, self._do(operation, term, [payloads[index] for index in indexes]), strict=True)
        return [found[index] for index in range(len(payloads))]

    def _do(self, operation: str, terms: Hashable, payloads: Sequence[Any]) -> list[Any]:
        key = BatchKey(operation, self.owner.model, terms)
        with self._timer.queueing() as share:
            max_batch_size = (
                self.max_batch_size
                if operation != "encode"
                else min(self.max_batch_size, self._max_encoder_batch_size or self.max_batch_size)
            )
            items = self._batcher.do(self.owner, key, payloads, max_batch_size, self._timer.waiting)
            share(sum(item.seconds for item in items))
        if operation == "generate":
            for item in items:
                if item.leads:
                    self._timer.emit(BatchDecoded(item.batch_size, item.max_batch_size))
        return [item.result for item in items]


# --- in the engine's threads -----------------------------------------------------------------------------------------


def _encode(model: WhisperModel, _: Any, features: list[torch.Tensor]) -> list[Encoding]:
    stacked = torch.stack(features)
    if stacked.is_cuda:
        # CTranslate2 reads the memory in place, on its own stream, so torch's queued work must finish first.
        torch.cuda.current_stream(stacked.device).synchronize()
        view = ctranslate2.StorageView.from_array(stacked)
    else:
        view = ctranslate2.StorageView.from_array(stacked.numpy())
    batch = _Encoded(model.model.encode(view))
    return [Encoding(batch, row) for row in range(len(features))]


def _detect(model: WhisperModel, _: Any, encodings: list[Encoding]) -> list[Probabilities]:
    found = model.model.detect_language(gather(encodings))
    return [{token.strip("<|>"): probability for token, probability in languages} for languages in found]


def _generate(model: WhisperModel, terms: Any, payloads: list[tuple[Encoding, list[int]]]) -> list[Any]:
    *_, prompt_tokens, max_tokens, settings = terms
    encodings, prompts = zip(*payloads, strict=True)
    results: list[Any] = model.model.generate(
        gather(encodings),
        list(prompts),
        # CTranslate2 generates at most half of max_length, and at most max_length minus the prompt without its last
        # token (src/models/whisper.cc).
        max_length=min(model.max_length, max_tokens + max(max_tokens, prompt_tokens - 1)),
        **_thaw(settings),
    )
    return results


def _align(model: WhisperModel, _: Any, payloads: list[tuple[Encoding, Tokenizer, list[int], int]]) -> list[Any]:
    encodings, tokenizers, tokens, frames = zip(*payloads, strict=True)
    found: list[Any] = model.find_alignment(tokenizers[0], list(tokens), gather(encodings), list(frames))
    return found


def _call(model: WhisperModel, _: Any, actions: list[Callable[[WhisperModel], Any]]) -> list[Any]:
    return [action(model) for action in actions]


_OPERATIONS: dict[str, Callable[[WhisperModel, Any, list[Any]], list[Any]]] = {
    "encode": _encode,
    "detect": _detect,
    "generate": _generate,
    "align": _align,
    "call": _call,
    "shrink": _call,
}


def _freeze(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _thaw(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings}
