"""One job's way through the stages, diarization beside the words, and which method takes over where one fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from daemon.errors import ModelUnavailable
from daemon.options import JobOptions
from daemon.pipeline import saved, vad
from daemon.pipeline.alignment import Aligner
from daemon.pipeline.asr import written_language
from daemon.pipeline.beside import Beside
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.coverage import with_missed
from daemon.pipeline.diarizing import diarize
from daemon.pipeline.ladder import Ladder
from daemon.pipeline.language import Detection, cut_at_pauses
from daemon.pipeline.pieces import Diarization, Passage
from daemon.pipeline.recognition import ESTIMATED, Group, Recognizer
from daemon.pipeline.reporter import Reporter
from daemon.pipeline.saved import SavedWords
from daemon.pipeline.segments import build_segments, sentences
from daemon.pipeline.speakers import Timeline, overlapped
from daemon.pipeline.stages import ATTENTION, Stages
from daemon.pipeline.words import spread
from daemon.pipeline.work import Watch, Work
from daemon.transcript import SCHEMA_VERSION, Models, Transcript


class JobRun:
    """Holds what belongs to one job alone. `audio` is float32, mono, 16 kHz."""

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
        self._watch = Watch(reporter)
        self._ladder = Ladder()
        self._work = Work(audio, options, checkpoints, self._watch, self._ladder)
        self._recognizer = Recognizer(stages, self._work)
        self._alignment: str | None = None

    def transcript(self) -> Transcript:
        """Run the stages. Raises what WhisperXPipeline.run names."""
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
            spoken = None  # detected on what turned out to be no speech
        # Words go to one speaker each: where speakers overlap, to the one a transcription most likely follows.
        timeline = Timeline(diarized.exclusive, overlapped(diarized.turns)) if diarized else None
        segments, names = build_segments(sentences(passages, timeline), with_words=self._options.align != "off")
        return Transcript(
            schema_version=SCHEMA_VERSION,
            job_id=self._job_id,
            task=self._options.task,
            language=spoken.language if spoken else self._options.language,
            language_probability=spoken.probability if spoken else None,
            language_probabilities=spoken.probabilities if spoken else {},
            duration_seconds=self._work.duration,
            speakers=list(names.values()),
            speaker_embeddings=self._voices(diarized, names),
            segments=segments,
            models=Models(
                asr=self._options.model,
                vad=vad.NAME,
                alignment=self._alignment,
                diarization=self._stages.diarizer.name if diarized else None,
                device="cuda" if self._stages.device.type == "cuda" else "cpu",
                compute_type=self._recognizer.compute_type,
            ),
            timings_seconds=self._watch.seconds(),
            redactions={},
            warnings=self._ladder.warnings(),
        )

    def _detect_speech(self) -> vad.Speech | None:
        """None when speech detection itself failed. Not kept: it is quick, and gives the same each time."""
        detect, progress = self._stages.detector.detect, self._watch.progress_of("vad")

        def detect_all(size: int) -> vad.Speech:
            speech = detect(self._audio, progress, size)
            chunks = with_missed(
                speech.chunks,
                self._audio,
                lambda gap: detect(gap, lambda _: self._watch.check_cancelled(), size).chunks,
            )
            return replace(speech, chunks=cut_at_pauses(chunks) if self._options.multilingual else chunks)

        with self._stages.detector_slot.held(self._watch), self._watch.stage("vad"):
            return self._ladder.or_none(
                lambda: self._ladder.with_memory("vad", self._stages.detector.batch_size, detect_all),
                "transcription_basic_mode",
                "vad",
                "transcribed in basic mode, without it",
            )

    # --- words ----------------------------------------------------------------------------------------------------

    def _choose_aligner(self, language: str) -> Aligner | None:
        """None for attention, and where no words are wanted."""
        if self._options.align in ("off", ATTENTION):
            return None
        try:
            if self._options.task == "translate":
                raise ModelUnavailable("a translation's words are not in the audio")
            with self._stages.aligner_slot.held(self._watch), self._watch.clock("align"):
                return self._stages.aligners.get(language, required=self._options.align == "wav2vec2")
        except ModelUnavailable as error:
            reason = f"{error.message}; word times are from Whisper's cross-attention"
            self._ladder.warn("alignment_fallback", "align", reason)
            return None

    def _with_words(self, groups: list[Group]) -> list[Passage]:
        """All passages, each with words and their times: where no aligner gave any, or none is wanted, estimated."""
        passages = [passage for group in groups for passage in group.passages]
        if self._options.align != "off":
            chosen = {language: self._choose_aligner(language) for language in {it.language for it in passages}}
            aligners = {language: aligner for language, aligner in chosen.items() if aligner}
            with self._watch.clock("align"):
                self._alignment = self._align(groups, passages, aligners) if aligners else ATTENTION
            if any(not passage.words for passage in passages):
                self._ladder.warn(*ESTIMATED)
            self._watch.done("align")
        for passage in passages:
            language = written_language(self._options, passage.language)
            passage.words = passage.words or spread(passage.text, language, passage.chunk)
        return passages

    def _align(self, groups: list[Group], passages: list[Passage], aligners: dict[str, Aligner]) -> str:
        """Set the passages' words; the names of the methods: one for each language, or attention for all of them."""
        groups = [group for group in groups if group.passages]
        mark = self._ladder.mark()
        used = {aligners[it.language].name if it.language in aligners else ATTENTION for it in passages}
        names = ",".join(sorted(used))
        size = max(aligner.batch_size for aligner in aligners.values())

        def by_wav2vec2(batch_size: int) -> str:
            done = 0
            for group in groups:
                if not self._restore_words(group, "align", names):
                    self._align_group(group, aligners, names, batch_size, done, len(passages))
                done += len(group.passages)
                self._watch.progress("align", done / len(passages))
            return names

        # The first group's words by attention tell that an earlier delivery got here: wav2vec2 is not tried again.
        fell_back = bool(groups) and self._restore_words(groups[0], "attend", ATTENTION)
        if not fell_back:
            name = self._ladder.or_none(
                lambda: self._ladder.with_memory("align", size, by_wav2vec2),
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
            self._watch.progress("align", done / len(passages))
        return ATTENTION

    def _align_group(
        self, group: Group, aligners: dict[str, Aligner], names: str, size: int, done: int, total: int
    ) -> None:
        """Set the words of one group's passages; by attention where wav2vec2 has no model or finds no way through a text."""
        mark = self._ladder.mark()
        lanes = self._stages.lanes
        lost = False
        for language, aligner in aligners.items():
            passages = [passage for passage in group.passages if passage.language == language]
            batches = aligner.batches(passages, size)
            for first in range(0, len(batches), lanes.count):
                now = batches[first : first + lanes.count]
                self._watch.check_cancelled()
                with self._stages.aligner_slot.held(self._watch):
                    aligned = lanes.map(partial(aligner.align, audio=self._audio), now)
                for passage, words in zip(chain.from_iterable(now), chain.from_iterable(aligned), strict=True):
                    passage.words = words
                    lost |= not words
                done += sum(len(batch) for batch in now)
                self._watch.progress("align", done / total)
        if lost:
            reason = f"{names} could not align every passage; for some, word times are from Whisper's cross-attention"
            self._ladder.warn("alignment_fallback", "align", reason)
        if any(not passage.words for passage in group.passages):
            self._recognizer.attend(group.passages)
        self._save_words(group, "align", names, mark)

    def _restore_words(self, group: Group, prefix: str, aligner: str) -> bool:
        """Set the words of one group's passages from its checkpoint; False if there is none."""
        self._watch.check_cancelled()
        found = saved.load(
            self._checkpoints,
            f"{prefix}-{group.name}.json",
            SavedWords,
            lambda it: it.aligner == aligner and it.fits(group.passages),
        )
        if found is None:
            return False
        found.restore(group.passages)
        self._ladder.repeat(found.warnings)
        return True

    def _save_words(self, group: Group, prefix: str, aligner: str, mark: int) -> None:
        """Keep the words of one group's passages, with what was warned of since the mark."""
        part = SavedWords.of(aligner, group.passages, self._ladder.warnings(since=mark))
        saved.save(self._checkpoints, f"{prefix}-{group.name}.json", part)

    # --- speakers -------------------------------------------------------------------------------------------------

    @contextmanager
    def _diarizing(self, speech: vad.Speech | None) -> Iterator[Callable[[], Diarization | None]]:
        """Diarization runs beside the block, which may ask for what it found: None if that failed, or is not wanted."""
        if not self._options.diarize:
            yield lambda: None
            return
        ladder = Ladder()

        def compute(watch: Watch) -> Diarization | None:
            return diarize(self._stages, replace(self._work, watch=watch, ladder=ladder), speech)

        def result() -> Diarization | None:
            diarized = beside.result(self._watch)
            self._ladder.repeat(ladder.warnings())
            return diarized

        beside = Beside("diarize", self._reporter, compute)
        try:
            yield result
        finally:
            beside.stop()

    def _voices(self, diarized: Diarization | None, names: dict[str, str]) -> dict[str, list[float]] | None:
        if diarized is None or not self._options.speaker_embeddings:
            return None
        return {name: diarized.voices[label] for label, name in names.items() if label in diarized.voices}
