"""Speech to text: chunks decoded in batches by Whisper.

Decoding is ours rather than whisperx's, whose pipeline keeps tokenizer and options from call to call, never reads its
own thresholds, and throws the encoder's output away that word times can be read from.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import Segment, get_suppressed_tokens
from whisperx.asr import WhisperModel

from daemon.options import JobOptions
from daemon.pipeline import gates, numerals
from daemon.pipeline.attention import attention_words
from daemon.pipeline.encoding import encode
from daemon.pipeline.engine import Encoding, Session
from daemon.pipeline.gates import Reading
from daemon.pipeline.language import chunk_language
from daemon.pipeline.levels import is_steady
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk, Passage
from daemon.pipeline.prompts import build_prompt
from daemon.pipeline.whisper_models import numeral_tokens
from daemon.pipeline.words import Piece, split_words

BEAM_SIZE = 5  # openai/whisper's and whisperx's default
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper's
TOKEN_CAPS = (64, 128, 224)  # the last is Whisper's own: half of its context
MAX_TOKENS_PER_SECOND = 32


class Decoder:
    """One job's use of a model. All that depends on the job is kept here, so that nothing reaches the next one."""

    def __init__(self, whisper: Session, options: JobOptions, language: str) -> None:
        self._whisper = whisper
        self._about = whisper.about
        self._model = self._about.model
        self._options = options
        self._language = language
        self._tokenizers: dict[str, Tokenizer] = {}
        tokenizer = self._tokenizer(language)
        self._prompt = build_prompt(options, self.tokens)
        self._suppressed = get_suppressed_tokens(tokenizer, [-1])

    @property
    def terms_left_out(self) -> int:
        """How many terms of the job's vocabulary found no room."""
        return self._prompt.left_out

    def decode(self, encoded: list[Encoding], audio: np.ndarray, chunks: Sequence[Chunk]) -> list[Passage]:
        """What is said in each of a batch of chunks; silence has an empty text.

        Short encodings of which Whisper makes too little are replaced, in `encoded` too, by such as are padded.
        """
        languages = self._languages(encoded, chunks)
        firsts = [self._read(result) for result in self._generate(encoded, chunks, languages, beam_size=BEAM_SIZE)]
        self._hear_in_full(encoded, firsts, audio, chunks, languages)
        passages: list[Passage] = []
        previous = ""
        for index, (chunk, language, first) in enumerate(zip(chunks, languages, firsts, strict=True)):
            reading = self._settle([encoded[index]], chunk, language, first, previous)
            if gates.is_silence(reading, previous, steady=is_steady(audio, chunk.start, chunk.end)):
                reading = gates.NOTHING
            previous = reading.text
            passages.append(Passage(chunk, reading.text, reading.avg_logprob, reading.tokens, language=language))
        if self._options.suppress_numerals:
            self._write_numbers_out(encoded, passages)
        return passages

    def align(self, encoded: Sequence[Encoding], passages: Sequence[Passage]) -> None:
        """Set the passages' words, timed by Whisper's cross-attention. `encoded` is what they were decoded from.

        Times are exact to about 0.1 s (measured: tests/integration/test_accuracy.py).
        """
        order = sorted(range(len(passages)), key=lambda index: passages[index].language)
        for language, indexes in groupby(order, key=lambda index: passages[index].language):
            same = list(indexes)
            self._align([encoded[index] for index in same], [passages[index] for index in same], language)

    def decode_plainly(self, audio: np.ndarray, window: Chunk, words: bool) -> list[Passage]:
        """Whisper's own sequential algorithm on a long stretch of audio, without batches and chunks: the fallback.

        All of it in one language, and with numbers as Whisper writes them.
        """
        passages = []
        span = np.array(audio[int(window.start * SAMPLE_RATE) : int(window.end * SAMPLE_RATE)])

        def transcribe(model: WhisperModel) -> list[Segment]:
            segments, _ = model.transcribe(
                span,
                language=self._language,
                task=self._options.task,
                initial_prompt=self._options.initial_prompt,
                hotwords=self._prompt.favoured or None,
                beam_size=BEAM_SIZE,
                condition_on_previous_text=False,
                vad_filter=False,
                word_timestamps=words,
            )
            return list(segments)

        eot = self._tokenizer(self._language).eot
        for segment in self._whisper.call(transcribe):
            start, end = (min(window.start + time, window.end) for time in (segment.start, segment.end))
            tokens = [token for token in segment.tokens if token < eot]
            chunk = Chunk(start, end, window.regions)
            passage = Passage(chunk, segment.text, segment.avg_logprob, tokens, language=self._language)
            if segment.words:
                pieces = [
                    Piece(word.word, window.start + word.start, window.start + word.end, word.probability)
                    for word in segment.words
                ]
                passage.words = attention_words(pieces, chunk, written_language(self._options, self._language))
            passages.append(passage)
        return passages

    def tokens(self, text: str) -> list[int]:
        """A text as Whisper spells it."""
        tokens: list[int] = self._tokenizer(self._language).encode(text)
        return tokens

    # --- languages ------------------------------------------------------------------------------------------------

    def _languages(self, encoded: Sequence[Encoding], chunks: Sequence[Chunk]) -> list[str]:
        """The language to decode each chunk in."""
        if not self._options.multilingual or not self._about.multilingual:
            return [self._language] * len(chunks)
        ballots = self._whisper.detect_languages(encoded)
        return [chunk_language(ballot, chunk, self._language) for ballot, chunk in zip(ballots, chunks, strict=True)]

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            tokenizer = Tokenizer(
                self._model.hf_tokenizer, self._about.multilingual, task=self._options.task, language=language
            )
            # It decides how words are told apart, and a translation is English.
            tokenizer.language_code = written_language(self._options, language)
            self._tokenizers[language] = tokenizer
        return self._tokenizers[language]

    # --- readings -------------------------------------------------------------------------------------------------

    def _generate(
        self, encoded: Sequence[Encoding], chunks: Sequence[Chunk], languages: Sequence[str], **sampling: Any
    ) -> list[Any]:
        """CTranslate2's results, one for each of the batch."""
        prompts = [
            self._model.get_prompt(self._tokenizer(language), self._prompt.tokens, without_timestamps=True)
            for language in languages
        ]
        settings = {"suppress_tokens": self._suppressed, **sampling}
        return self._whisper.generate(
            encoded,
            prompts,
            [token_cap(chunk.end - chunk.start) for chunk in chunks],
            return_scores=True,
            return_no_speech_prob=True,
            **settings,
        )

    def _hear_in_full(
        self,
        encoded: list[Encoding],
        readings: list[Reading],
        audio: np.ndarray,
        chunks: Sequence[Chunk],
        languages: Sequence[str],
    ) -> None:
        unsure = [
            index
            for index, (encoding, reading) in enumerate(zip(encoded, readings, strict=True))
            if encoding.is_short and not gates.is_sure(reading)
        ]
        if not unsure:
            return
        again = [chunks[index] for index in unsure]
        full = encode(self._whisper, audio, again)
        results = self._generate(full, again, [languages[index] for index in unsure], beam_size=BEAM_SIZE)
        for index, encoding, result in zip(unsure, full, results, strict=True):
            encoded[index], readings[index] = encoding, self._read(result)

    def _read(self, result: Any) -> Reading:
        tokenizer = self._tokenizer(self._language)
        sequence = result.sequences_ids[0]
        tokens = [token for token in sequence if token < tokenizer.eot]
        # The score is the mean over the tokens; Whisper's average counts the end mark too.
        avg_logprob = result.scores[0] * len(sequence) / (len(sequence) + 1)
        return Reading(tokenizer.decode(tokens), tokens, avg_logprob, result.no_speech_prob)

    def _settle(
        self, encoded: Sequence[Encoding], chunk: Chunk, language: str, first: Reading, previous: str
    ) -> Reading:
        """The reading to go on with: the first if it is good, else one at a higher temperature.

        In a doubtful chunk only a reading that is surely speech counts: it would not be missed.
        """
        if chunk.doubtful:
            return first if gates.is_surely_speech(first) else gates.NOTHING
        repeats = gates.repeats(first, previous)
        if (gates.is_good(first) and not repeats) or gates.is_silence(first):
            return first
        warmer = self._decode_warmer(encoded, chunk, language, first)
        return first if repeats and gates.repeats(warmer, previous) else warmer

    def _decode_warmer(self, encoded: Sequence[Encoding], chunk: Chunk, language: str, first: Reading) -> Reading:
        """The first good reading at a rising temperature, else the best: Whisper's way out of loops."""
        readings = [first]
        for temperature in TEMPERATURES:
            sampling = {"beam_size": 1, "num_hypotheses": BEAM_SIZE, "sampling_topk": 0}
            result = self._generate(encoded, [chunk], [language], sampling_temperature=temperature, **sampling)[0]
            readings.append(self._read(result))
            if gates.is_good(readings[-1]):
                return readings[-1]
        return gates.best(readings)

    def _write_numbers_out(self, encoded: Sequence[Encoding], passages: Sequence[Passage]) -> None:
        """Decode the passages with numerals again without these, and take what is good and leaves no number out."""
        indexes = [index for index, passage in enumerate(passages) if numerals.has_numerals(passage.text)]
        if not indexes:
            return
        suppressed = sorted({*self._suppressed, *numeral_tokens(self._model, self._tokenizer(self._language))})
        results = self._generate(
            [encoded[index] for index in indexes],
            [passages[index].chunk for index in indexes],
            [passages[index].language for index in indexes],
            beam_size=BEAM_SIZE,
            suppress_tokens=suppressed,
        )
        for index, result in zip(indexes, results, strict=True):
            passage, reading = passages[index], self._read(result)
            split = partial(split_words, language=written_language(self._options, passage.language))
            if gates.is_good(reading) and numerals.keeps_numbers(passage.text, reading.text, split):
                passage.text, passage.tokens, passage.avg_logprob = reading.text, reading.tokens, reading.avg_logprob

    def _align(self, encoded: Sequence[Encoding], passages: Sequence[Passage], language: str) -> None:
        frames = [int((p.chunk.end - p.chunk.start) * self._model.frames_per_second) for p in passages]
        tokenizer = self._tokenizer(language)
        aligned = self._whisper.find_alignment(tokenizer, [p.tokens for p in passages], encoded, frames)
        for passage, found in zip(passages, aligned, strict=True):
            start = passage.chunk.start
            pieces = [
                Piece(
                    item["word"], start + float(item["start"]), start + float(item["end"]), float(item["probability"])
                )
                for item in found
            ]
            passage.words = attention_words(pieces, passage.chunk, written_language(self._options, language))


def token_cap(seconds: float) -> int:
    """How many tokens Whisper may make of so much sound: a loop in a short chunk ends before it holds a batch up for long.

    The next of a few steps, because only equal ones share a batch. Of 30 s Whisper makes 224 at the most, 7.5 a second;
    scripts that take most tokens, such as Burmese and Amharic, have about 30 a second.
    """
    return next((cap for cap in TOKEN_CAPS[:-1] if seconds * MAX_TOKENS_PER_SECOND <= cap), TOKEN_CAPS[-1])


def written_language(options: JobOptions, spoken: str) -> str:
    """The language of the text, which says how its words are told apart."""
    return "en" if options.task == "translate" else spoken
