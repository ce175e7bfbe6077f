"""Speech to text for all jobs of this process: the one place that runs Whisper.

Each job has a `Session`, whose calls look as if it had the model for itself. Behind them chunks of all jobs share
batches (schedule.py), one batch at a time in each of the device's lanes. Another engine can stand in for
this one: it has to offer what Session does.
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

from daemon.pipeline.batching import Batcher
from daemon.pipeline.devices import Device
from daemon.pipeline.language import Probabilities
from daemon.pipeline.schedule import Kind, Owner
from daemon.pipeline.whisper_models import WhisperModels
from daemon.pipeline.work import Watch

T = TypeVar("T")
FULL_FRAMES = 1500  # the encoder's, of 30 s

# Chunks that the encoder takes at once, where fewer than the decoder: on a processor a chunk's layers fit into the caches,
# those of several do not, and each takes longer than by itself.
ENCODER_ROOM = {"cpu": 1}
ModelKey = tuple[str, str]  # name and compute type: what tells a model in memory


class _Encoded:
    """What the encoder made of a batch, where it made it."""

    def __init__(self, view: ctranslate2.StorageView) -> None:
        self.view = view
        self._rows: list[np.ndarray] | None = None

    def rows(self) -> list[np.ndarray]:
        """The chunks' encodings one by one, in the host's memory: float32, (frames, width)."""
        if self._rows is None:
            view = self.view.to(ctranslate2.DataType.float32)  # numpy knows no bfloat16; the way back loses nothing
            self._rows = list(np.array(view.to_device(ctranslate2.Device.cpu)))
        return self._rows


@dataclass(frozen=True, eq=False, slots=True)
class Encoding:
    """What the encoder made of one chunk. `frames` is its length: only equal ones share a batch."""

    batch: _Encoded
    row: int

    @property
    def frames(self) -> int:
        return int(self.batch.view.shape[1])

    @property
    def is_short(self) -> bool:
        """Whether it was not padded to Whisper's 30 s."""
        return self.frames < FULL_FRAMES


def gather(encodings: Sequence[Encoding]) -> ctranslate2.StorageView:
    """Encodings as a batch. One that they all come from, whole and in order, is taken as it is, on the device."""
    whole = encodings[0].batch
    if all(it.batch is whole for it in encodings) and [it.row for it in encodings] == list(range(whole.view.shape[0])):
        return whole.view
    return ctranslate2.StorageView.from_array(np.stack([it.batch.rows()[it.row] for it in encodings]))


@dataclass(frozen=True, slots=True)
class About:
    """A model's sizes. `model` is for its tokenizer and prompts alone: it may be out of memory by now."""

    model: WhisperModel
    device: str  # cuda or cpu
    mels: int
    multilingual: bool

    @classmethod
    def of(cls, model: WhisperModel) -> "About":
        return cls(model, model.model.device, model.model.n_mels, model.model.is_multilingual)


class Engine:
    """The Whisper models of this process, and the threads that use them."""

    def __init__(self, models: WhisperModels, device: Device) -> None:
        self._models = models
        self._encoder_room = ENCODER_ROOM.get(device.type)
        self._batcher = Batcher(self._execute, models.resident, device.lanes)

    @contextmanager
    def session(self, model: str, room: int, watch: Watch) -> Iterator["Session"]:
        """One job's use of the model of that name, in batches of at most `room`.

        What it asks for raises ModelUnavailable, OutOfMemory or DeviceFault where the model cannot be loaded, Interrupted
        when the job is given up, or what CTranslate2 raises.
        """
        session = Session(self._batcher, Owner((model, self._models.usual_type)), room, self._encoder_room, watch)
        with self._batcher.member(session.owner):
            yield session

    def _execute(self, kind: Kind, payloads: list[Any]) -> Sequence[Any]:
        name, compute_type = cast(ModelKey, kind.model)
        if kind.operation == "shrink":
            self._models.unload_all()
        with self._models.borrowed(name, compute_type) as model:
            return _OPERATIONS[kind.operation](model, kind.terms, payloads)


class Session:
    """The job's side. All that it returns is in the order of what it was given."""

    def __init__(self, batcher: Batcher, owner: Owner, room: int, encoder_room: int | None, watch: Watch) -> None:
        self.owner = owner
        self.room = room
        self._encoder_room = encoder_room
        self._batcher = batcher
        self._watch = watch
        self._about: About | None = None

    @property
    def about(self) -> About:
        """What the model is like; it is loaded if need be."""
        if self._about is None:
            self._about = self.call(About.of)
        return self._about

    def encode(self, features: Sequence[torch.Tensor]) -> list[Encoding]:
        """Log-mel spectrograms, (mels, frames) each, on the model's device, to encodings."""
        return self._by_terms("encode", [it.shape[1] for it in features], features)

    def detect_languages(self, encodings: Sequence[Encoding]) -> list[Probabilities]:
        """Each chunk's languages: one step of the decoder."""
        return self._by_terms("detect", [it.frames for it in encodings], encodings)

    def generate(
        self, encodings: Sequence[Encoding], prompts: Sequence[list[int]], max_tokens: Sequence[int], **settings: Any
    ) -> list[Any]:
        """CTranslate2's WhisperGenerationResult for each, of at most so many tokens. Prompts may differ in all but the place
        of `<|startoftranscript|>` and the length after it. What may become long shares no batch with what may not."""
        terms = tuple(sorted((name, _frozen(value)) for name, value in settings.items()))
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
        """Words with their times in each chunk, of a text given in tokens: WhisperModel.find_alignment's."""
        # Of one job alone: the words' scores depend, in the second decimal, on what else is in the batch (int8, CPU).
        language = (self.owner.age, tuple(tokenizer.sot_sequence), tokenizer.language_code)
        payloads = [(it, tokenizer, *rest) for it, *rest in zip(encodings, tokens, frames, strict=True)]
        return self._by_terms("align", [(it.frames, language) for it in encodings], payloads)

    def call(self, action: Callable[[WhisperModel], T]) -> T:
        """The action's result, done by itself."""
        result: T = self._do("call", object(), [action])[0]
        return result

    def shrink(self, compute_type: str) -> None:
        """From now on use the model in a smaller type. All models leave: it is memory that is short."""
        name, _ = cast(ModelKey, self.owner.model)
        self.owner.model = (name, compute_type)
        (self._about,) = self._do("shrink", object(), [About.of])

    # --- asking ---------------------------------------------------------------------------------------------------

    def _by_terms(self, operation: str, terms: Sequence[Hashable], payloads: Sequence[Any]) -> list[Any]:
        """What has equal terms is asked for together; among them is the length, which a batch has but one of."""
        found: dict[int, Any] = {}
        for term in dict.fromkeys(terms):
            indexes = [index for index, other in enumerate(terms) if other == term]
            found |= zip(indexes, self._do(operation, term, [payloads[index] for index in indexes]), strict=True)
        return [found[index] for index in range(len(payloads))]

    def _do(self, operation: str, terms: Hashable, payloads: Sequence[Any]) -> list[Any]:
        kind = Kind(operation, self.owner.model, terms)
        with self._watch.queueing() as share:
            room = self.room if operation != "encode" else min(self.room, self._encoder_room or self.room)
            pieces = self._batcher.do(self.owner, kind, payloads, room, self._watch.waiting)
            share(sum(piece.seconds for piece in pieces))
        if operation == "generate":
            for piece in pieces:
                if piece.leads:
                    self._watch.batch(piece.batch_size, piece.room)
        return [piece.result for piece in pieces]


# --- in the engine's threads -----------------------------------------------------------------------------------------


def _encode(model: WhisperModel, _: Any, features: list[torch.Tensor]) -> list[Encoding]:
    stacked = torch.stack(features)
    if stacked.is_cuda:
        # CTranslate2 takes the memory as it is, on a stream of its own: what torch has queued must be done.
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
        # CTranslate2 generates half of this at the most, and no more than the prompt but for its last token leaves of it
        # (src/models/whisper.cc).
        max_length=min(model.max_length, max_tokens + max(max_tokens, prompt_tokens - 1)),
        **_thawed(settings),
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


def _frozen(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _thawed(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings}
