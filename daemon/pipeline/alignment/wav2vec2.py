"""Word times from wav2vec2: choose the model for a language as whisperx does, and align with it."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from huggingface_hub import constants
from whisperx import alignment as whisperx_alignment

from daemon.errors import DeviceFault, ModelUnavailable, SetupFailed
from daemon.pipeline.alignment.ctc import WILDCARD, find_path
from daemon.pipeline.alignment.emissions import batches, log_probabilities, takes_padding
from daemon.pipeline.alignment.placement import place
from daemon.pipeline.alignment.words import AlignedToken, attach_marks, fill_times, split_words
from daemon.pipeline.runtime.device import ComputeDevice, Failure, classify
from daemon.pipeline.runtime.library_output import suppress_library_output
from daemon.pipeline.runtime.plain_weights import runs_code
from daemon.pipeline.speech.shortened import shorten
from daemon.pipeline.types import SAMPLE_RATE, Passage, TimedWord
from daemon.schema.catalog import UNSPACED_LANGUAGES
from daemon.telemetry.redaction import describe
from daemon.weights.verified import VerifiedWeights

BATCH_SIZE = 4  # passages of up to 30 s; each takes about 0.8 GB in a large model's first layers
RETRY_SECONDS = 600  # before loading a failed model again, so that not every job retries it


@dataclass(frozen=True, slots=True)
class Aligner:
    """A wav2vec2 model for one language. `metadata` is whisperx's: language, dictionary and model type."""

    name: str
    device: str
    model: torch.nn.Module
    metadata: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Number of passages to align at once if memory allows."""
        return BATCH_SIZE if self.device == "cuda" and takes_padding(self.model) else 1

    def batches(self, passages: Sequence[Passage], size: int) -> list[list[Passage]]:
        """Split the passages into batches for `align`: at most `size` passages of similar length each."""
        lengths = [shorten(passage.chunk).seconds for passage in passages]
        size = size if takes_padding(self.model) else 1
        return [[passages[index] for index in batch] for batch in batches(lengths, size)]

    def align(self, passages: Sequence[Passage], audio: np.ndarray) -> list[list[TimedWord]]:
        """Align one batch. Return all words of each passage, or an empty list if there is no path through its text.

        Long pauses are shortened. Path and times match `whisperx.align` 3.8.6 on the same emissions, but are not rounded. Two whisperx errors are
        corrected. `İ`, which is two characters in lower case, does not shift the following times by a character.
        `split_words` splits the text: at any whitespace, and into characters in all languages without spaces, even if
        whisperx has no model for the language.

        Characters unknown to the model, such as digits, match any sound. A score is the mean CTC probability of the
        word's characters.
        """
        shortened = [shorten(passage.chunk) for passage in passages]
        spans = [it.audio(audio) for it in shortened]
        with suppress_library_output():
            emissions = log_probabilities(self.model, self.device, spans)
        aligned = []
        for passage, heard, span, log_probs in zip(passages, shortened, spans, emissions, strict=True):
            tokens = self.align_tokens(passage.text, log_probs, len(span) / SAMPLE_RATE, passage.chunk.start)
            words = place(attach_marks(fill_times(tokens, heard.chunk)), heard.chunk) if tokens else []
            aligned.append(heard.restore(words))
        return aligned

    def align_tokens(self, text: str, log_probs: np.ndarray, seconds: float, offset: float) -> list[AlignedToken]:
        """Align the text with `seconds` of emissions. Return its words, or an empty list if there is no path."""
        positions, tokens = self._tokens(text)
        path = find_path(log_probs, tokens, self._blank())
        if path is None:
            return []
        per_frame = seconds / len(log_probs)
        aligned = []
        after = 0
        for word in split_words(text, self.metadata["language"]):
            before, after = after, after + len(word)
            first = bisect_left(positions, before + len(word) - len(word.lstrip()))
            last = bisect_left(positions, before + len(word.rstrip())) - 1
            if first > last:
                aligned.append(AlignedToken(word, None, None))
                continue
            start, end = float(path.starts[first]) * per_frame, float(path.ends[last]) * per_frame
            aligned.append(
                AlignedToken(word, offset + start, offset + end, float(path.scores[first : last + 1].mean()))
            )
        return aligned

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Return the positions of the characters to align, and their tokens. Spaces count if the model has a token."""
        dictionary = self.metadata["dictionary"]
        space = " " if self.metadata["language"] in UNSPACED_LANGUAGES else "|"
        positions, tokens = [], []
        for position in range(len(text) - len(text.lstrip()), len(text.rstrip())):
            char = text[position].lower()[0].replace(" ", space)
            if char in dictionary or char not in " |":
                positions.append(position)
                tokens.append(dictionary.get(char, WILDCARD))
        return positions, tokens

    def _blank(self) -> int:
        blanks = [token for char, token in self.metadata["dictionary"].items() if char in ("[pad]", "<pad>")]
        return blanks[-1] if blanks else 0


class Aligners:
    """Load a language's wav2vec2 model on first use and cache it."""

    def __init__(
        self, configured: tuple[str, ...], device: ComputeDevice, weights: VerifiedWeights | None = None
    ) -> None:
        self._weights = weights or VerifiedWeights.from_environment()
        self._configured = dict(_parse(item) for item in configured)
        self._device = device
        self._loaded: dict[str, Aligner] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # language → monotonic time, reason

    def load_configured(self) -> None:
        """Load the configured models, so that a wrong name fails at startup. Raises SetupFailed."""
        for language in self._configured:
            try:
                self.get(language, required=True)
            except ModelUnavailable as error:
                raise SetupFailed(f"TRANSCRIPTD_ALIGNMENT_MODELS: {error}") from error

    def loaded(self) -> list[Aligner]:
        return list(self._loaded.values())

    def get(self, language: str, required: bool) -> Aligner:
        """Return the model for a language: the configured one, else whisperx's default.

        The default is downloaded on CUDA or if `required`, unless HF_HUB_OFFLINE is set; otherwise it must be present
        on this machine. Raises ModelUnavailable with the reason, or DeviceFault.
        """
        if language in self._loaded:
            return self._loaded[language]
        failed_at, reason = self._failed.get(language, (-RETRY_SECONDS, ""))
        if time.monotonic() - failed_at < RETRY_SECONDS:
            raise ModelUnavailable(reason)
        name = self._configured.get(language) or _whisperx_choice(language)
        if name is None:
            raise ModelUnavailable(f"no wav2vec2 model is known for the language {language}")
        # HF_HUB_OFFLINE also covers downloads from PyTorch's site: on a closed network the attempt would hang.
        wanted = required or language in self._configured or self._device.type == "cuda"
        download = wanted and not constants.HF_HUB_OFFLINE
        try:
            self._loaded[language] = self._load(language, name, download)
        except ModelUnavailable as error:
            if download:
                self._failed[language] = (time.monotonic(), error.message)
            raise
        return self._loaded[language]

    def _load(self, language: str, name: str, download: bool) -> Aligner:
        if not download and not _is_torchaudio_cached(name) and name in torchaudio.pipelines.__all__:
            raise ModelUnavailable(f"the wav2vec2 model {name} for {language} is not on this machine")
        verified = self._weights.alignment(language, name, download=download)
        # A repository is loaded from its verified folder; PyTorch finds the verified file of a bundle by the bundle's name.
        source = str(verified) if verified is not None and verified.is_dir() else name
        try:
            with suppress_library_output():
                model, metadata = whisperx_alignment.load_align_model(
                    language, self._device.type, model_name=source, model_cache_only=not download
                )
        except Exception as error:  # hub, file and torch errors share no base class
            if classify(error) is Failure.DEVICE:
                raise DeviceFault(f"CUDA failed while loading the wav2vec2 model {name}: {describe(error)}") from error
            where = "could not be loaded" if download else "is not on this machine"
            if runs_code(error):
                where = (
                    "is not a file of plain weights, and could run code: fetch it again with `transcriptd models fetch`"
                )
            raise ModelUnavailable(f"the wav2vec2 model {name} for {language} {where}") from error
        return Aligner(name, self._device.type, model.eval(), metadata)


def _parse(item: str) -> tuple[str, str]:
    language, separator, name = item.partition("=")
    if not separator or not language or not name:
        raise SetupFailed(f'TRANSCRIPTD_ALIGNMENT_MODELS: "{item}" is not of the form language=name-or-folder')
    return language, name


def _whisperx_choice(language: str) -> str | None:
    tables = whisperx_alignment.DEFAULT_ALIGN_MODELS_TORCH, whisperx_alignment.DEFAULT_ALIGN_MODELS_HF
    return next((table[language] for table in tables if language in table), None)


def _is_torchaudio_cached(name: str) -> bool:
    bundle = getattr(torchaudio.pipelines, name, None)
    return bundle is not None and (Path(torch.hub.get_dir()) / "checkpoints" / bundle._path).is_file()
