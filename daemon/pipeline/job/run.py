"""Run the stages of one job, with diarization in parallel, and fall back to another method if one fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from daemon.errors import ModelUnavailable
from daemon.pipeline.alignment.wav2vec2 import Aligner
from daemon.pipeline.alignment.words import spread
from daemon.pipeline.asr.decoding import written_language
from daemon.pipeline.asr.language import Detection, cut_at_pauses
from daemon.pipeline.checkpoints import parts as saved
from daemon.pipeline.checkpoints.parts import SavedWords
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.diarization.speakers import Timeline, overlapped, unmet_bound
from daemon.pipeline.job.diarization import diarize
from daemon.pipeline.job.recognition import ESTIMATED, Group, Recognizer
from daemon.pipeline.job.segments import build_segments, sentences
from daemon.pipeline.runtime.background import BackgroundStage
from daemon.pipeline.runtime.fallback import FallbackPolicy
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.runtime.work import JobWork, StageTimer
from daemon.pipeline.speech import detector as vad
from daemon.pipeline.speech.coverage import add_missed_speech
from daemon.pipeline.speech.description import describe
from daemon.pipeline.stages import ATTENTION, Stages
from daemon.pipeline.types import Diarization, Passage
from daemon.schema.options import JobOptions
from daemon.schema.transcript import NO_SPEECH_FOUND, SCHEMA_VERSION, Models, Transcript


class JobRun:
    """State of one job. `audio` is float32, mono, 16 kHz."""

    def __init__(
        self,
        stages: Stages,
        job_id: str,
        audio: np.ndarray,
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> None:
        self._stages = stages
        self._job_id = job_id
        self._audio = audio
        self._options = options
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._timer = StageTimer(reporter)
        self._fallback = FallbackPolicy()
        self._work = JobWork(audio, options, checkpoints, self._timer, self._fallback)
        self._recognizer = Recognizer(stages, self._work)
        self._alignment: str | None = None

    def transcript(self) -> Transcript:
        """Run the stages. Raises the errors listed at WhisperXPipeline.run."""
        speech = self._detect_speech()
        spoken: Detection | None = None
        passages: list[Passage] = []
        diarized = None
        if speech is None or speech.chunks:
            chunks = speech.chunks if speech else []
            with self._diarizing(speech) as turns:
                with self._recognizer.session():
                    spoken = self._recognizer.begin(chunks)
                    by_attention = self._options.align != "off" and self._choose_aligner(spoken.language) is None
                    passages = self._with_words(self._recognizer.transcribe(chunks, by_attention))
                diarized = turns() if passages else None
        if not passages:
            spoken = None  # the language was detected in audio without speech
        # Each word gets one speaker: where speakers overlap, the one that a transcription most likely follows.
        timeline = Timeline(diarized.exclusive, overlapped(diarized.turns)) if diarized else None
        segments, names = build_segments(sentences(passages, timeline), with_words=self._options.align != "off")
        if segments:
            self._warn_of_doubts(spoken, None if diarized is None else len(names))
        else:
            stage = "asr" if speech is None or speech.chunks else "vad"
            self._fallback.warn(NO_SPEECH_FOUND, stage, f"no words were found: {describe(self._audio)}")
        return Transcript(
            schema_version=SCHEMA_VERSION,
            job_id=self._job_id,
            task=self._options.task,
            language=spoken.language if spoken else self._options.language,
            language_probability=spoken.probability if spoken else None,
            language_probabilities=spoken.probabilities if spoken else {},
            start_seconds=0.0,  # of the audio; the daemon knows where that is in the recording
            duration_seconds=self._work.duration,
            speakers=list(names.values()),
            speaker_embeddings=self._speaker_embeddings(diarized, names),
            segments=segments,
            models=Models(
                asr=self._options.model,
                vad=vad.NAME,
                alignment=self._alignment,
                diarization=self._stages.diarizer.name if diarized else None,
                device="cuda" if self._stages.device.type == "cuda" else "cpu",
                compute_type=self._recognizer.compute_type,
            ),
            timings_seconds=self._timer.seconds(),
            redactions={},
            warnings=self._fallback.warnings(),
        )

    def _warn_of_doubts(self, spoken: Detection | None, speakers: int | None) -> None:
        """Warn of a second language, and of a number of speakers outside the job's bounds; None if unknown."""
        if spoken and spoken.split:
            shares = ", ".join(f"{share:.0%} {language}" for language, share in spoken.split.items())
            reason = f"speech in several languages ({shares}) was all decoded as {spoken.language}"
            self._fallback.warn("language_split", "asr", f"{reason}; set options.multilingual")
        unmet = None if speakers is None else unmet_bound(self._options, speakers)
        if unmet:
            self._fallback.warn("speaker_bounds_unmet", "diarize", unmet)

    def _detect_speech(self) -> vad.Speech | None:
        """Detect speech; None if that failed. Saves no checkpoint: it is fast and deterministic."""
        detect, lock = self._stages.detector.detect, self._stages.detector_lock
        progress = lock.lending(self._timer, self._timer.progress_callback("vad"))

        def detect_all(size: int) -> vad.Speech:
            speech = detect(self._audio, progress, size)
            chunks = add_missed_speech(
                speech.chunks,
                self._audio,
                lambda gap: detect(gap, lambda _: self._timer.check_cancelled(), size).chunks,
            )
            return replace(speech, chunks=cut_at_pauses(chunks) if self._options.multilingual else chunks)

        with lock.held(self._timer), self._timer.stage("vad"):
            return self._fallback.or_none(
                lambda: self._fallback.with_memory("vad", self._stages.detector.batch_size, detect_all),
                "transcription_basic_mode",
                "vad",
                "transcribed in basic mode, without speech detection",
            )

    # --- words ----------------------------------------------------------------------------------------------------

    def _choose_aligner(self, language: str) -> Aligner | None:
        """Return the aligner for the language; None to use cross-attention, or if word times are off."""
        if self._options.align in ("off", ATTENTION):
            return None
        try:
            if self._options.task == "translate":
                raise ModelUnavailable("a translation cannot be aligned with the audio")
            with self._stages.aligner_lock.held(self._timer), self._timer.clock("align"):
                return self._stages.aligners.get(language, required=self._options.align == "wav2vec2")
        except ModelUnavailable as error:
            reason = f"{error.message}; word times are from Whisper's cross-attention"
            self._fallback.warn("alignment_fallback", "align", reason)
            return None

    def _with_words(self, groups: list[Group]) -> list[Passage]:
        """Return all passages with timed words. Times are estimated if alignment is off or found none."""
        passages = [passage for group in groups for passage in group.passages]
        if self._options.align != "off":
            chosen = {language: self._choose_aligner(language) for language in {it.language for it in passages}}
            aligners = {language: aligner for language, aligner in chosen.items() if aligner}
            with self._timer.clock("align"):
                self._alignment = self._align(groups, passages, aligners) if aligners else ATTENTION
            if any(not passage.words for passage in passages):
                self._fallback.warn(*ESTIMATED)
            self._timer.done("align")
        for passage in passages:
            language = written_language(self._options, passage.language)
            passage.words = passage.words or spread(passage.text, language, passage.chunk)
        return passages

    def _align(self, groups: list[Group], passages: list[Passage], aligners: dict[str, Aligner]) -> str:
        """Set the passages' words. Return the names of the methods: one per language, or attention for all."""
        groups = [group for group in groups if group.passages]
        mark = self._fallback.mark()
        used = {aligners[it.language].name if it.language in aligners else ATTENTION for it in passages}
        names = ",".join(sorted(used))
        size = max(aligner.batch_size for aligner in aligners.values())

        def by_wav2vec2(batch_size: int) -> str:
            done = 0
            for group in groups:
                if not self._restore_words(group, "align", names):
                    self._align_group(group, aligners, names, batch_size, done, len(passages))
                done += len(group.passages)
                self._timer.progress("align", done / len(passages))
            return names

        # A checkpoint of the first group's words by attention means that wav2vec2 failed before: do not retry it.
        fell_back = bool(groups) and self._restore_words(groups[0], "attend", ATTENTION)
        if not fell_back:
            name = self._fallback.or_none(
                lambda: self._fallback.with_memory("align", size, by_wav2vec2),
                "alignment_fallback",
                "align",
                "word times are from Whisper's cross-attention",
                memory_matters=False,
            )
            if name is not None:
                return name
        done = 0
        for group in groups:
            if not self._restore_words(group, "attend", ATTENTION):
                for passage in group.passages:
                    passage.words = []
                self._recognizer.attend(group.passages)
                self._save_words(group, "attend", ATTENTION, mark)
            done += len(group.passages)
            self._timer.progress("align", done / len(passages))
        return ATTENTION

    def _align_group(
        self, group: Group, aligners: dict[str, Aligner], names: str, size: int, done: int, total: int
    ) -> None:
        """Set the words of one group's passages, by attention where wav2vec2 has no model or finds no path."""
        mark = self._fallback.mark()
        lanes = self._stages.lanes
        lost = False
        for language, aligner in aligners.items():
            passages = [passage for passage in group.passages if passage.language == language]
            batches = aligner.batches(passages, size)
            for first in range(0, len(batches), lanes.count):
                now = batches[first : first + lanes.count]
                self._timer.check_cancelled()
                with self._stages.aligner_lock.held(self._timer):
                    aligned = lanes.map(partial(aligner.align, audio=self._audio), now)
                for passage, words in zip(chain.from_iterable(now), chain.from_iterable(aligned), strict=True):
                    passage.words = words
                    lost |= not words
                done += sum(len(batch) for batch in now)
                self._timer.progress("align", done / total)
        if lost:
            reason = f"{names} could not align every passage; for some, word times are from Whisper's cross-attention"
            self._fallback.warn("alignment_fallback", "align", reason)
        if any(not passage.words for passage in group.passages):
            self._recognizer.attend(group.passages)
        self._save_words(group, "align", names, mark)

    def _restore_words(self, group: Group, prefix: str, aligner: str) -> bool:
        """Set the words of one group's passages from its checkpoint. Return False if there is none."""
        self._timer.check_cancelled()
        found = saved.load(
            self._checkpoints,
            f"{prefix}-{group.name}.json",
            SavedWords,
            lambda it: it.aligner == aligner and it.fits(group.passages),
        )
        if found is None:
            return False
        found.restore(group.passages)
        self._fallback.repeat(found.warnings)
        return True

    def _save_words(self, group: Group, prefix: str, aligner: str, mark: int) -> None:
        """Save the words of one group's passages with the warnings since the mark."""
        part = SavedWords.of(aligner, group.passages, self._fallback.warnings(since=mark))
        saved.save(self._checkpoints, f"{prefix}-{group.name}.json", part)

    # --- speakers -------------------------------------------------------------------------------------------------

    @contextmanager
    def _diarizing(self, speech: vad.Speech | None) -> Iterator[Callable[[], Diarization | None]]:
        """Diarize in parallel with the block. Yield a function that returns the result: None if failed or off."""
        if not self._options.diarize:
            yield lambda: None
            return
        fallback = FallbackPolicy()

        def compute(timer: StageTimer) -> Diarization | None:
            return diarize(self._stages, replace(self._work, timer=timer, fallback=fallback), speech)

        def result() -> Diarization | None:
            diarized = background.result(self._timer)
            self._fallback.repeat(fallback.warnings())
            return diarized

        background = BackgroundStage("diarize", self._reporter, compute)
        try:
            yield result
        finally:
            background.stop()

    def _speaker_embeddings(self, diarized: Diarization | None, names: dict[str, str]) -> dict[str, list[float]] | None:
        if diarized is None or not self._options.speaker_embeddings:
            return None
        return {name: diarized.voices[label] for label, name in names.items() if label in diarized.voices}
