"""Word times from wav2vec2 models, through whisperx: finding the model for a language, and aligning with it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from huggingface_hub import constants
from whisperx import alignment as whisperx_alignment

from daemon.errors import DeviceFault, ModelUnavailable, SetupFailed
from daemon.pipeline.devices import Device, Failure, classify
from daemon.pipeline.pieces import SAMPLE_RATE, Passage, TimedWord
from daemon.pipeline.quiet import quietly
from daemon.pipeline.words import Piece, attach_marks, fill_times, settle

RETRY_SECONDS = 600  # a model that failed to load is not tried again for every job


class _OneSentence:
    """Stands in for nltk's sentence splitter, which whisperx would download: sentences are split later, with times."""

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


whisperx_alignment.nltk_load = lambda _: _OneSentence()


@dataclass(frozen=True, slots=True)
class Aligner:
    """A wav2vec2 model for one language."""

    name: str
    device: str
    model: torch.nn.Module
    metadata: dict[str, Any]

    def align(self, passage: Passage, audio: np.ndarray) -> list[TimedWord]:
        """The passage's words, none left out; no words at all where whisperx finds no way through the text.

        Characters that the model does not know, digits for one, stand for any sound. Scores are CTC's: the mean
        probability of the characters.
        """
        chunk = passage.chunk
        # A copy of these few seconds, because torch wants memory that it could write to.
        span = np.array(audio[int(chunk.start * SAMPLE_RATE) : int(chunk.end * SAMPLE_RATE)])
        segment = {"text": passage.text, "start": 0.0, "end": len(span) / SAMPLE_RATE}
        with quietly():
            found = whisperx_alignment.align([segment], self.model, self.metadata, span, self.device)["word_segments"]
        pieces = _pieces(passage.text, found, chunk.start)
        return settle(attach_marks(fill_times(pieces, chunk)), chunk) if pieces else []


class Aligners:
    """The wav2vec2 models, loaded when a language first needs one."""

    def __init__(self, configured: tuple[str, ...], device: Device) -> None:
        self._configured = dict(_parse(item) for item in configured)
        self._device = device
        self._loaded: dict[str, Aligner] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # language → when, why

    def load_configured(self) -> None:
        """Load what the settings name, so that a wrong name shows at the start. Raises SetupFailed."""
        for language in self._configured:
            try:
                self.get(language, required=True)
            except ModelUnavailable as error:
                raise SetupFailed(f"TRANSCRIPTD_ALIGNMENT_MODELS: {error}") from error

    def loaded(self) -> list[Aligner]:
        return list(self._loaded.values())

    def get(self, language: str, required: bool) -> Aligner:
        """The model for a language: the configured one, else whisperx's choice.

        whisperx's choice is downloaded on CUDA or when `required`, unless HF_HUB_OFFLINE is set; otherwise it must be on
        this machine.
        Raises ModelUnavailable with the reason, or DeviceFault.
        """
        if language in self._loaded:
            return self._loaded[language]
        failed_at, reason = self._failed.get(language, (-RETRY_SECONDS, ""))
        if time.monotonic() - failed_at < RETRY_SECONDS:
            raise ModelUnavailable(reason)
        name = self._configured.get(language) or _whisperx_choice(language)
        if name is None:
            raise ModelUnavailable(f"there is no wav2vec2 model for the language {language}")
        # PyTorch's site is no hub, but who says offline means it too: on a closed network the attempt would hang.
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
        try:
            with quietly():
                model, metadata = whisperx_alignment.load_align_model(
                    language, self._device.type, model_name=name, model_cache_only=not download
                )
        except Exception as error:  # hub, file and torch errors share no base class
            if classify(error) is Failure.DEVICE:
                raise DeviceFault(f"CUDA failed while the wav2vec2 model {name} was loaded: {error}") from error
            where = "could not be loaded" if download else "is not on this machine"
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


def _pieces(text: str, found: list[dict[str, Any]], offset: float) -> list[Piece]:
    """whisperx's words as slices of the text, on the recording's time line; empty when they do not match the text."""
    pieces: list[Piece] = []
    cursor = 0
    for word in found:
        at = text.find(word["word"], cursor)
        if at < 0:
            return []
        after = at + len(word["word"])
        start, end = (None if word.get(key) is None else offset + float(word[key]) for key in ("start", "end"))
        pieces.append(Piece(text[cursor:after], start, end, word.get("score")))
        cursor = after
    if pieces and cursor < len(text):
        last = pieces[-1]
        pieces[-1] = Piece(last.text + text[cursor:], last.start, last.end, last.score)
    return pieces
