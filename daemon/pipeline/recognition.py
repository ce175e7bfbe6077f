"""Whisper's part of a job: the language, and what is said, group by group, so that an interrupted job can go on.

A group is a run of chunks. Its bounds depend on the chunks alone and no batch crosses them: what Whisper makes of a
chunk may depend on those that share its batch, and a resumed job must end with the transcript of an uninterrupted one.
(But for one thing: a chunk that Whisper is unsure of is sampled at random, CTranslate2 takes no seed for a job, and even
two uninterrupted runs in one process differ in it.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import TypeVar

import numpy as np

from daemon.catalog import is_english_only
from daemon.errors import OutOfMemory
from daemon.pipeline import saved, vad
from daemon.pipeline.asr import Decoder
from daemon.pipeline.encoding import encode, encode_rest
from daemon.pipeline.engine import Encoding, Session
from daemon.pipeline.language import Detection, vote, voters
from daemon.pipeline.pieces import Chunk, Passage
from daemon.pipeline.saved import SavedGroup
from daemon.pipeline.stages import Stages
from daemon.pipeline.work import Work

T = TypeVar("T")

# What is lost at the most when a job is interrupted. Of a recording of 2 h it is 4 %. A group of full chunks holds 10 of
# them: batches do not get larger.
GROUP_SECONDS = 300
PLAIN_WINDOW_SECONDS = 600  # bounds the memory of decoding without chunks

ESTIMATED = ("alignment_fallback", "align", "word times are estimated from the words' lengths")

MAX_NAMED = 10  # stretches in a warning
MIN_GATED_SECONDS = 2.0  # of speech in a chunk that is left out, for the reader to be told: below that it was a cough

# CTranslate2's compute types, and what each gives way to when not even one chunk fits into memory.
SMALLER_TYPES = {"float16": "int8_float16"}


@dataclass(frozen=True, slots=True)
class Group:
    """The passages of a group of chunks, those without text left out. `name` is its checkpoint's, without the ending."""

    name: str
    passages: list[Passage]


class Recognizer:
    """One job's use of Whisper, inside its `session`. There `begin` comes first."""

    def __init__(self, stages: Stages, work: Work) -> None:
        self._stages = stages
        self._work = work
        self._name = work.options.model
        self._usual_type = stages.device.compute_type
        self._smaller_type = SMALLER_TYPES.get(self._usual_type) if stages.device.type == "cuda" else None
        self._type = self._usual_type
        self._padded = self._name not in stages.short_context_models
        self._types_used: set[str] = set()
        self._session: Session | None = None
        self._decoder: Decoder | None = None
        self._language = ""
        self._known: dict[Chunk, Encoding] = {}  # what language detection encoded: decoding takes it over

    @contextmanager
    def session(self) -> Iterator[None]:
        """The time in which the job needs Whisper. What other jobs of this process want at that time shares its batches."""
        engine, work = self._stages.engine, self._work
        with engine.session(self._name, self._stages.batch_size, work.watch) as self._session:
            yield

    @property
    def compute_type(self) -> str:
        """The smallest type that any part of the transcript was made with, in this delivery or before."""
        return next((used for used in self._types_used if used != self._usual_type), self._usual_type)

    def begin(self, chunks: Sequence[Chunk]) -> Detection:
        """Load the model. The language given, else the one that chunks from all over the recording vote for.

        A resumed job detects it again: that costs one run of the encoder, and the same audio gives the same answer.
        Should it be another one after all, on another device, then no checkpoint in the first language is used.
        """
        with self._work.watch.clock("asr"):
            self._with_memory("asr", 1, lambda _: self._whisper().about)
            named = "en" if is_english_only(self._name) else self._work.options.language
            if named is not None:
                detection = Detection(named)
            else:
                detection = self._with_memory("asr", self._stages.batch_size, partial(self._detect_language, chunks))
        self._language = detection.language
        return detection

    def transcribe(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group]:
        """What is said, with words by attention if asked for. Without chunks, and if batches fail, in basic mode."""
        groups = self._in_batches(chunks, with_words) if chunks else None
        if groups is None:
            groups = self._plainly(chunks, with_words)
        else:
            self._warn_of_gated(chunks, groups)
        if left_out := self._decoder_now().terms_left_out:
            reason = f"{left_out} terms of the vocabulary found no room in Whisper's prompt; shorten the list"
            self._work.ladder.warn("vocabulary_cut", "asr", reason)
        self._known.clear()
        self._work.watch.done("asr")
        return groups

    def attend(self, passages: Sequence[Passage]) -> None:
        """Set the words of the passages that have none, by attention."""
        rest = [passage for passage in passages if passage.tokens and not passage.words]

        def attend_rest(size: int) -> None:
            decoder = self._decoder_now()
            while rest:
                self._work.watch.check_cancelled()
                batch = rest[:size]
                chunks = [passage.chunk for passage in batch]
                decoder.align(encode(self._whisper(), self._work.audio, chunks), batch)
                del rest[:size]

        self._work.ladder.or_none(lambda: self._with_memory("align", self._stages.batch_size, attend_rest), *ESTIMATED)

    def _detect_language(self, chunks: Sequence[Chunk], size: int) -> Detection:
        """Doubtful chunks have no vote, unless there are no others."""
        work = self._work
        sure = [chunk for chunk in chunks if not chunk.doubtful] or chunks
        polled = voters(sure or windows(work.duration, vad.CHUNK_SECONDS))
        ballots = []
        for first in range(0, len(polled), size):
            work.watch.check_cancelled()
            batch = [voter.chunk for voter in polled[first : first + size]]
            encoded = encode(self._whisper(), work.audio, batch)
            ballots += self._whisper().detect_languages(encoded)
            self._known.update(zip(batch, encoded, strict=True))
        return vote([(ballot, voter.weight) for ballot, voter in zip(ballots, polled, strict=True)])

    def _warn_of_gated(self, chunks: Sequence[Chunk], groups: Sequence[Group]) -> None:
        """Name the stretches that were taken for speech at first: where something is missing, it is missing there."""
        heard = {passage.chunk.start for group in groups for passage in group.passages}
        gated = [
            f"{chunk.start:.1f}-{chunk.end:.1f}"
            for chunk in chunks
            if not chunk.doubtful and chunk.start not in heard and chunk.speech_seconds >= MIN_GATED_SECONDS
        ]
        if gated:
            more = f" and {len(gated) - MAX_NAMED} more" if len(gated) > MAX_NAMED else ""
            reason = f"Whisper heard no speech at {', '.join(gated[:MAX_NAMED])} s{more}; left out"
            self._work.ladder.warn("chunk_gated", "asr", reason)

    # --- groups ---------------------------------------------------------------------------------------------------

    def _in_batches(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group] | None:
        """None when that failed."""

        def decode_groups() -> list[Group]:
            groups = []
            done = 0
            for index, part in enumerate(in_groups(chunks, GROUP_SECONDS)):
                report = partial(self._report, done, len(chunks))
                decode = partial(self._decode, part, with_words, report)
                groups.append(self._group(f"asr-{index:05}", part, with_words, decode))
                done += len(part)
                self._report(done, len(chunks), 0)
            return groups

        return self._work.ladder.or_none(
            decode_groups, "transcription_basic_mode", "asr", "transcribed again in basic mode, without batches"
        )

    def _plainly(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group]:
        """The one attempt in basic mode; its failure is the job's. Its checkpoints have names of their own."""
        windows = plain_windows(chunks, self._work.duration)
        groups = []
        for index, window in enumerate(windows):
            decode = partial(self._decode_plainly, window, with_words)
            groups.append(self._group(f"plain-{index:05}", [window], with_words, decode))
            self._report(index + 1, len(windows), 0)
        return groups

    def _group(
        self, name: str, chunks: Sequence[Chunk], with_words: bool, decode: Callable[[], list[list[Passage]]]
    ) -> Group:
        """A group from its checkpoint, else decoded (to the passages of each chunk) and kept."""
        ladder, checkpoints = self._work.ladder, self._work.checkpoints
        self._work.watch.check_cancelled()
        found = saved.load(checkpoints, f"{name}.json", SavedGroup, lambda it: self._fits(it, chunks, with_words))
        if found is not None:
            passages = found.restore(chunks)
            ladder.repeat(found.warnings)
            self._types_used.add(found.compute_type)
        else:
            mark = ladder.mark()
            passages = decode()
            self._types_used.add(self._type)
            part = SavedGroup.of(
                chunks,
                passages,
                language=self._language,
                compute_type=self._type,
                with_words=with_words,
                warnings=ladder.warnings(since=mark),
            )
            saved.save(checkpoints, f"{name}.json", part)
        return Group(name, [passage for passage in chain.from_iterable(passages) if passage.text.strip()])

    def _fits(self, group: SavedGroup, chunks: Sequence[Chunk], with_words: bool) -> bool:
        """What the poller cannot know of when it decides which checkpoints fit: what this run turned out to do."""
        return (
            group.language == self._language
            and group.with_words == with_words
            and group.compute_type in (self._usual_type, self._smaller_type)
            and group.fits(chunks)
        )

    def _decode(self, chunks: Sequence[Chunk], with_words: bool, report: Callable[[int], None]) -> list[list[Passage]]:
        """Decode in batches.

        Word times by attention are taken here, where the encoder's output is at hand, but counted as alignment.
        """
        work = self._work
        passages: list[Passage] = []

        def decode_rest(size: int) -> list[list[Passage]]:
            decoder = self._decoder_now()
            while len(passages) < len(chunks):
                work.watch.check_cancelled()
                batch = chunks[len(passages) : len(passages) + size]
                with work.watch.clock("asr"):
                    encoded = encode_rest(self._whisper(), work.audio, batch, self._known, padded=self._padded)
                    found = decoder.decode(encoded, work.audio, batch)
                if with_words:
                    with work.watch.clock("align"):
                        work.ladder.or_none(partial(decoder.align, encoded, found), *ESTIMATED)
                passages.extend(found)
                silent = [passage.chunk.doubtful for passage in found if not passage.text.strip()]
                work.watch.heard(len(batch), silent.count(False), silent.count(True))
                report(len(passages))
            return [[passage] for passage in passages]

        return self._with_memory("asr", self._stages.batch_size, decode_rest)

    def _decode_plainly(self, window: Chunk, with_words: bool) -> list[list[Passage]]:
        def decode(_: int) -> list[list[Passage]]:
            return [self._decoder_now().decode_plainly(self._work.audio, window, with_words)]

        with self._work.watch.clock("asr"):
            return self._with_memory("asr", 1, decode)

    def _report(self, before: int, total: int, done: int) -> None:
        self._work.watch.progress("asr", (before + done) / total)

    # --- the model ------------------------------------------------------------------------------------------------

    def _whisper(self) -> Session:
        if self._session is None:
            raise RuntimeError("Whisper is used inside session() alone")
        return self._session

    def _decoder_now(self) -> Decoder:
        if self._decoder is None:
            self._decoder = Decoder(self._whisper(), self._work.options, self._language)
        return self._decoder

    def _with_memory(self, stage: str, size: int, action: Callable[[int], T]) -> T:
        """As the ladder's; its last step, once in a job, is to load the model in a smaller type."""
        smaller = self._smaller_type

        def act(size: int) -> T:
            self._whisper().room = size
            return action(size)

        try:
            return self._work.ladder.with_memory(stage, size, act)
        except OutOfMemory:
            if smaller is None or self._type == smaller:
                raise
        # Only here is the memory free that the failed attempt's frames held.
        reason = f"not enough memory for the model in {self._type}; went on in {smaller}"
        self._work.ladder.warn("compute_type_reduced", "asr", reason)
        self._type = smaller
        self._decoder = None
        self._known.clear()
        self._whisper().shrink(smaller)
        return self._work.ladder.with_memory(stage, 1, act)


def in_groups(chunks: Sequence[Chunk], seconds: float) -> list[list[Chunk]]:
    """Runs of chunks that span at most so much of the recording, or one chunk."""
    groups: list[list[Chunk]] = []
    for chunk in chunks:
        if groups and chunk.end - groups[-1][0].start <= seconds:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


def plain_windows(chunks: Sequence[Chunk], duration: float) -> list[Chunk]:
    """Stretches of at most 10 min that end where a chunk ends; without chunks, the whole recording cut at 10 min."""
    if not chunks:
        return windows(duration, PLAIN_WINDOW_SECONDS)
    return [
        Chunk(group[0].start, group[-1].end, tuple(region for chunk in group for region in chunk.regions))
        for group in in_groups(chunks, PLAIN_WINDOW_SECONDS)
    ]


def windows(duration: float, seconds: float) -> list[Chunk]:
    """The whole recording, cut every so many seconds."""
    spans = pairwise([*np.arange(0, duration, seconds).tolist(), duration])
    return [Chunk(start, end, regions=((start, end),)) for start, end in spans]
