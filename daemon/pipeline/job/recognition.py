"""The ASR stage of a job: detect the language, then transcribe group by group, so that an interrupted job can resume.

A group is a run of consecutive chunks. Its bounds depend on the chunks alone, and no batch crosses them: the text of a
chunk may depend on the other chunks of its batch, and a resumed job must produce the same transcript as an
uninterrupted one. The exception is a chunk with a low-confidence hypothesis: it is decoded by random sampling, and
CTranslate2 accepts no seed per job, so even two uninterrupted runs in one process can differ there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TypeVar

from daemon.errors import OutOfMemory
from daemon.pipeline.alignment.placement import Region
from daemon.pipeline.asr.decoding import WhisperDecoder
from daemon.pipeline.asr.encoding import encode, encode_rest
from daemon.pipeline.asr.engine import Encoding, WhisperSession
from daemon.pipeline.asr.language import Detection, Probabilities, Voter, among, parts_of_uncertain, split, vote, voters
from daemon.pipeline.checkpoints import parts as saved
from daemon.pipeline.checkpoints.parts import SavedGroup
from daemon.pipeline.job.grouping import in_groups, plain_windows, windows
from daemon.pipeline.job.recovery import MIN_REGION_SECONDS, Decoded, assemble, claim, omissions, recover_plainly
from daemon.pipeline.runtime.work import JobWork
from daemon.pipeline.speech import detector as vad
from daemon.pipeline.speech.shortened import cut_at_long_pauses
from daemon.pipeline.stages import Stages
from daemon.pipeline.types import Chunk, Passage
from daemon.protocol.events import ChunksFiltered
from daemon.schema.catalog import is_english_only

T = TypeVar("T")

# The most audio that must be transcribed again after an interruption: 4 % of a 2 h recording. A group holds 10 full
# chunks, which also limits the batch size.
GROUP_SECONDS = 300

ESTIMATED = ("alignment_fallback", "align", "word times are estimated from the words' lengths")

UNCHECKED = ("alignment_fallback", "asr", "speech that Whisper left out in a chunk was not looked for")

MAX_NAMED = 10  # time ranges listed in a warning

# CTranslate2's compute types, and the smaller type used when not even one chunk fits into memory.
SMALLER_TYPES = {"float16": "int8_float16"}


@dataclass(frozen=True, slots=True)
class Group:
    """The non-empty passages of a group of chunks. `name` is its checkpoint's name without the extension."""

    name: str
    passages: list[Passage]
    unrecognized: list[Region]  # detected speech that has no text although its chunk has


class Recognizer:
    """Run Whisper for one job. Call `begin` first, and all methods within `session`."""

    def __init__(self, stages: Stages, work: JobWork) -> None:
        self._stages = stages
        self._work = work
        self._name = work.options.model
        self._usual_type = stages.device.compute_type
        self._smaller_type = SMALLER_TYPES.get(self._usual_type) if stages.device.type == "cuda" else None
        self._type = self._usual_type
        self._padded = self._name not in stages.unpadded_models
        self._types_used: set[str] = set()
        self._session: WhisperSession | None = None
        self._decoder: WhisperDecoder | None = None
        self._language = ""
        self._known: dict[Chunk, Encoding] = {}  # encodings from language detection, reused for decoding

    @contextmanager
    def session(self) -> Iterator[None]:
        """Register the job with the engine. Registered jobs share batches."""
        engine, work = self._stages.engine, self._work
        with engine.session(self._name, self._stages.batch_size, work.timer) as self._session:
            yield

    @property
    def compute_type(self) -> str:
        """The smallest compute type used for any part of the transcript, in this or an earlier delivery."""
        return next((used for used in self._types_used if used != self._usual_type), self._usual_type)

    def begin(self, chunks: Sequence[Chunk]) -> Detection:
        """Load the model and determine the language: the one in the options, or a vote of chunks across the recording.

        A resumed job detects the language again: this costs one run of the encoder, and the same audio gives the same
        result. If another device yields another language after all, checkpoints in the first language are not used.
        """
        with self._work.timer.clock("asr"):
            self._with_memory("asr", 1, lambda _: self._whisper().about)
            named = "en" if is_english_only(self._name) else self._work.options.language
            if named is not None:
                detection = Detection(named)
            else:
                detection = self._with_memory("asr", self._stages.batch_size, partial(self._detect_language, chunks))
        self._language = detection.language
        return detection

    def transcribe(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group]:
        """Transcribe the chunks, in basic mode if there are none or if batches fail.

        `with_words` sets word times from cross-attention.
        """
        groups = self._in_batches(chunks, with_words) if chunks else None
        if groups is None:
            groups = self._plainly(chunks, with_words)
        else:
            self._warn_of_rejected(chunks, groups)
        if unrecognized := [region for group in groups for region in group.unrecognized]:
            reason = f"Whisper recognized nothing in the speech at {self._named(unrecognized)}, even alone"
            self._work.fallback.warn("speech_unrecognized", "asr", reason)
        if left_out := self._decoder_now().terms_left_out:
            reason = f"{left_out} terms of the vocabulary do not fit into Whisper's prompt; shorten the list"
            self._work.fallback.warn("vocabulary_cut", "asr", reason)
        self._known.clear()
        self._work.timer.done("asr")
        return groups

    def attend(self, passages: Sequence[Passage]) -> None:
        """Set the words of passages that have none, with times from cross-attention."""
        rest = [passage for passage in passages if passage.tokens and not passage.words]

        def attend_rest(size: int) -> None:
            decoder = self._decoder_now()
            while rest:
                self._work.timer.check_cancelled()
                batch = rest[:size]
                chunks = [passage.chunk for passage in batch]
                decoder.align(encode(self._whisper(), self._work.audio, chunks), self._work.audio, batch)
                del rest[:size]

        self._work.fallback.or_none(
            lambda: self._with_memory("align", self._stages.batch_size, attend_rest), *ESTIMATED
        )

    def _detect_language(self, chunks: Sequence[Chunk], size: int) -> Detection:
        """Detect the language. Doubtful chunks vote only if there are no others.

        What is said between two long pauses votes on its own, because it may be in another language.
        """
        sure = [chunk for chunk in chunks if not chunk.doubtful]
        parts = [part for chunk in sure or chunks for part in cut_at_long_pauses(chunk)]
        polled = voters(parts or windows(self._work.duration, vad.CHUNK_SECONDS))
        ballots = self._poll(polled, size, chunks)
        detection = vote([(ballot, voter.weight) for ballot, voter in zip(ballots, polled, strict=True)])
        if not sure or self._work.options.multilingual:
            return detection
        uncertain = parts_of_uncertain(ballots, polled)
        ballots = [*ballots, *self._poll(uncertain, size, chunks)]
        total = sum(voter.weight for voter in polled)
        return replace(detection, split=split(ballots, [*polled, *uncertain], detection.language, total))

    def _poll(self, polled: Sequence[Voter], size: int, chunks: Sequence[Chunk]) -> list[Probabilities]:
        """Return each voter's ballot. The encodings of `chunks` are kept for decoding."""
        ballots: list[Probabilities] = []
        for first in range(0, len(polled), size):
            self._work.timer.check_cancelled()
            batch = [voter.chunk for voter in polled[first : first + size]]
            encoded = encode(self._whisper(), self._work.audio, batch)
            ballots += among(self._work.options.languages, self._whisper().detect_languages(encoded))
            self._known.update((it, encoding) for it, encoding in zip(batch, encoded, strict=True) if it in chunks)
        return ballots

    def _warn_of_rejected(self, chunks: Sequence[Chunk], groups: Sequence[Group]) -> None:
        """Warn of the speech that Whisper rejected, a chunk or a part between long pauses: missing text is likely there."""
        kept = [passage.chunk for group in groups for passage in group.passages]
        named = {region for group in groups for region in group.unrecognized}
        rejected = [
            (part.start, part.end)
            for chunk in chunks
            for part in cut_at_long_pauses(chunk)
            if not part.doubtful
            and any(end - start > MIN_REGION_SECONDS for start, end in part.regions)
            and not any(it.start < part.end and part.start < it.end for it in kept)
            and named.isdisjoint(part.regions)
        ]
        if rejected:
            reason = f"Whisper found no speech at {self._named(rejected)}; omitted"
            self._work.fallback.warn("chunk_rejected", "asr", reason)

    # --- groups ---------------------------------------------------------------------------------------------------

    def _in_batches(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group] | None:
        """Transcribe in batches; None if that failed."""

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

        return self._work.fallback.or_none(
            decode_groups, "transcription_basic_mode", "asr", "transcribed again in basic mode, without batches"
        )

    def _plainly(self, chunks: Sequence[Chunk], with_words: bool) -> list[Group]:
        """Transcribe in basic mode, with separate checkpoints. There is no further fallback: an error fails the job."""
        windows = plain_windows(chunks, self._work.duration)
        groups = []
        for index, window in enumerate(windows):
            decode = partial(self._decode_plainly, window, with_words, bool(chunks))
            groups.append(self._group(f"plain-{index:05}", [window], with_words, decode))
            self._report(index + 1, len(windows), 0)
        return groups

    def _group(self, name: str, chunks: Sequence[Chunk], with_words: bool, decode: Callable[[], Decoded]) -> Group:
        """Load a group from its checkpoint, or decode and save it."""
        fallback, checkpoints = self._work.fallback, self._work.checkpoints
        self._work.timer.check_cancelled()
        found = saved.load(checkpoints, f"{name}.json", SavedGroup, lambda it: self._fits(it, chunks, with_words))
        if found is not None:
            decoded = Decoded(found.restore(chunks), found.unrecognized)
            fallback.repeat(found.warnings)
            self._types_used.add(found.compute_type)
        else:
            mark = fallback.mark()
            decoded = decode()
            self._types_used.add(self._type)
            part = SavedGroup.of(
                chunks,
                decoded.passages,
                decoded.unrecognized,
                language=self._language,
                compute_type=self._type,
                with_words=with_words,
                warnings=fallback.warnings(since=mark),
            )
            saved.save(checkpoints, f"{name}.json", part)
        passages = [passage for passage in chain.from_iterable(decoded.passages) if passage.text.strip()]
        return Group(name, passages, decoded.unrecognized)

    def _fits(self, group: SavedGroup, chunks: Sequence[Chunk], with_words: bool) -> bool:
        """Whether the checkpoint matches this run in what the fingerprint cannot cover."""
        return (
            group.language == self._language
            and group.with_words == with_words
            and group.compute_type in (self._usual_type, self._smaller_type)
            and group.fits(chunks)
        )

    def _decode(self, chunks: Sequence[Chunk], with_words: bool, report: Callable[[int], None]) -> Decoded:
        """Decode in batches: each chunk at once or, if the text of that is no good, the parts between its long pauses."""
        whole = self._decode_each(chunks, with_words, report)
        parts = [
            [chunk] if passage else cut_at_long_pauses(chunk) for chunk, passage in zip(chunks, whole, strict=True)
        ]
        rest = self._decode_each([it for part in parts if len(part) > 1 for it in part], with_words, lambda _: None)
        remaining = iter(rest)
        passages = [it or next(remaining) for part, it in zip(parts, whole, strict=True) for _ in part]
        decoded = self._recover([it for it in passages if it], with_words)
        found = iter(decoded.passages)
        decoded.passages = [[it for _ in part for it in next(found)] for part in parts]
        if not with_words:
            for passage in chain.from_iterable(decoded.passages):
                passage.words = []
        return decoded

    def _decode_each(
        self, chunks: Sequence[Chunk], with_words: bool, report: Callable[[int], None]
    ) -> list[Passage | None]:
        """Decode the chunks in batches. Return None for a chunk to decode in parts.

        Word times from cross-attention are computed here, where the encodings are available, but timed as alignment.
        Without `with_words` they only show which speech has no words.
        """
        work = self._work
        passages: list[Passage | None] = []

        def decode_rest(size: int) -> list[Passage | None]:
            decoder = self._decoder_now()
            while len(passages) < len(chunks):
                work.timer.check_cancelled()
                batch = chunks[len(passages) : len(passages) + size]
                with work.timer.clock("asr"):
                    encoded = encode_rest(self._whisper(), work.audio, batch, self._known, padded=self._padded)
                    found = decoder.decode(encoded, work.audio, batch)
                self._attend_while_encoded(encoded, found, with_words)
                passages.extend(found)
                decoded = [it for it in found if it]
                silent = [it.chunk.doubtful for it in decoded if not it.text.strip()]
                work.timer.emit(ChunksFiltered(len(decoded), silent.count(False), silent.count(True)))
                report(len(passages))
            return passages

        return self._with_memory("asr", self._stages.batch_size, decode_rest)

    def _attend_while_encoded(
        self, encoded: list[Encoding], passages: Sequence[Passage | None], with_words: bool
    ) -> None:
        """Set the passages' words; if the job does not use them, only of those with pauses."""
        wanted = [
            (encoding, it)
            for encoding, it in zip(encoded, passages, strict=True)
            if it and (with_words or (len(it.chunk.regions) > 1 and it.text))
        ]
        align = partial(self._decoder_now().align, [it for it, _ in wanted], self._work.audio, [it for _, it in wanted])
        with self._work.timer.clock("align" if with_words else "asr"):
            if with_words:
                self._work.fallback.or_none(align, *ESTIMATED)
            elif wanted:
                self._work.fallback.or_none(align, *UNCHECKED)

    def _recover(self, passages: Sequence[Passage], with_words: bool) -> Decoded:
        """Decode speech that a passage left out again, alone, and insert its text."""
        work = self._work
        parts = with_words and work.options.task == "transcribe"  # a translation does not follow the sound closely
        missed = [
            omission
            for passage in passages
            if not passage.chunk.doubtful and (passage.words or not passage.text)
            for omission in omissions(passage, passage.chunk, parts=parts)
        ]
        found: list[Passage] = []

        def decode_again(size: int) -> list[Passage]:
            decoder = self._decoder_now()
            while len(found) < len(missed):
                work.timer.check_cancelled()
                batch = missed[len(found) : len(found) + size]
                chunks = [omission.chunk for omission in batch]
                with work.timer.clock("asr"):
                    encoded = encode(self._whisper(), work.audio, chunks, padded=self._padded)
                    texts = [it for it in decoder.decode(encoded, work.audio, chunks) if it]  # none has long pauses
                    for omission, text in zip(batch, texts, strict=True):
                        claim(omission, text, decoder.tokens)
                self._attend_while_encoded(encoded, texts, with_words)
                found.extend(texts)
            return found

        texts = self._with_memory("asr", self._stages.batch_size, decode_again)
        return assemble(passages, missed, texts, self._decoder_now().tokens)

    def _decode_plainly(self, window: Chunk, with_words: bool, detected: bool) -> Decoded:
        """Decode a window in basic mode. `detected`: the window's regions are detected speech."""

        def decode(chunk: Chunk) -> list[Passage]:
            return self._with_memory(
                "asr", 1, lambda _: self._decoder_now().decode_plainly(self._work.audio, chunk, with_words)
            )

        with self._work.timer.clock("asr"):
            passages = decode(window)
            if not detected:
                return Decoded([passages])
            return recover_plainly(window, passages, decode, self._decoder_now().tokens)

    def _report(self, before: int, total: int, done: int) -> None:
        self._work.timer.progress("asr", (before + done) / total)

    # --- the model ------------------------------------------------------------------------------------------------

    def _whisper(self) -> WhisperSession:
        if self._session is None:
            raise RuntimeError("Whisper is available inside session() only")
        return self._session

    def _decoder_now(self) -> WhisperDecoder:
        if self._decoder is None:
            self._decoder = WhisperDecoder(self._whisper(), self._work.options, self._language)
        return self._decoder

    def _with_memory(self, stage: str, size: int, action: Callable[[int], T]) -> T:
        """Call `FallbackPolicy.with_memory`. If memory still runs out, once per job, switch to a smaller type."""
        smaller = self._smaller_type

        def act(size: int) -> T:
            self._whisper().max_batch_size = size
            return action(size)

        try:
            return self._work.fallback.with_memory(stage, size, act)
        except OutOfMemory:
            if smaller is None or self._type == smaller:
                raise
        # Retry outside the except block: the exception's frames keep the failed attempt's memory allocated.
        reason = f"not enough memory for the model in {self._type}; continued in {smaller}"
        self._work.fallback.warn("compute_type_reduced", "asr", reason)
        self._type = smaller
        self._decoder = None
        self._known.clear()
        self._whisper().shrink(smaller)
        return self._work.fallback.with_memory(stage, 1, act)

    def _named(self, ranges: Sequence[Region]) -> str:
        """Name the first time ranges for a warning, as times of the recording."""
        more = f" and {len(ranges) - MAX_NAMED} more" if len(ranges) > MAX_NAMED else ""
        first = self._work.options.clip_start_seconds
        return ", ".join(f"{first + start:.1f}-{first + end:.1f}" for start, end in ranges[:MAX_NAMED]) + f" s{more}"
