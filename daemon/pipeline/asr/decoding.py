"""Decode chunks with Whisper, in batches.

This replaces whisperx's pipeline, which keeps the tokenizer and options from call to call, never applies its own
thresholds, and discards the encoder output that word times are computed from.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import Segment, get_suppressed_tokens
from whisperx.asr import WhisperModel

from daemon.pipeline.alignment.attention import attention_words
from daemon.pipeline.alignment.words import AlignedToken, split_words
from daemon.pipeline.asr import filters, numerals
from daemon.pipeline.asr.encoding import encode
from daemon.pipeline.asr.engine import Encoding, WhisperSession
from daemon.pipeline.asr.filters import Hypothesis
from daemon.pipeline.asr.language import among, chunk_language
from daemon.pipeline.asr.prompts import build_prompt
from daemon.pipeline.asr.whisper_models import numeral_tokens
from daemon.pipeline.speech.levels import is_steady, raise_quiet
from daemon.pipeline.speech.shortened import shorten
from daemon.pipeline.speech.silence import without_silence
from daemon.pipeline.types import SAMPLE_RATE, Chunk, Passage
from daemon.schema.options import JobOptions

BEAM_SIZE = 5  # default of openai/whisper and whisperx
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # as in openai/whisper
TOKEN_CAPS = (64, 128, 224)  # the last is Whisper's own limit: half of its context
MAX_TOKENS_PER_SECOND = 32


class WhisperDecoder:
    """Decode for one job. All state that depends on the job lives here, so none leaks into the next job."""

    def __init__(self, whisper: WhisperSession, options: JobOptions, language: str) -> None:
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
        """Number of vocabulary terms that do not fit into the prompt."""
        return self._prompt.left_out

    def decode(self, encoded: list[Encoding], audio: np.ndarray, chunks: Sequence[Chunk]) -> list[Passage | None]:
        """Decode a batch of chunks into one passage each; silence has an empty text.

        The passage is None for a chunk with long pauses whose text is no good: it may be a sentence that is really repeated
        after each pause. Decode the parts between the pauses instead.

        An unpadded encoding with a low-confidence hypothesis is encoded again with padding, and replaced in `encoded`.
        """
        languages = self._languages(encoded, chunks)
        firsts = [self._read(result) for result in self._generate(encoded, chunks, languages, beam_size=BEAM_SIZE)]
        self._decode_in_full(encoded, firsts, audio, chunks, languages)
        passages: list[Passage | None] = []
        previous = ""
        for index, (chunk, language, first) in enumerate(zip(chunks, languages, firsts, strict=True)):
            shortened = shorten(chunk)
            if shortened.cuts and not chunk.doubtful and not filters.is_varied(first):
                passages.append(None)
                continue
            hypothesis = self._choose_hypothesis([encoded[index]], chunk, language, first, previous)
            steady = is_steady(shortened.audio(audio))
            if filters.is_silence(hypothesis, previous, steady=steady, speech_seconds=chunk.speech_seconds):
                hypothesis = filters.EMPTY
            previous = hypothesis.text
            passages.append(
                Passage(chunk, hypothesis.text, hypothesis.avg_logprob, hypothesis.tokens, language=language)
            )
        if self._options.suppress_numerals:
            self._write_numbers_out(encoded, passages)
        return passages

    def align(self, encoded: Sequence[Encoding], audio: np.ndarray, passages: Sequence[Passage]) -> None:
        """Set the passages' words, timed by Whisper's cross-attention. They must have been decoded from `encoded`.

        Times are accurate to about 0.1 s (measured in tests/integration/test_accuracy.py).
        """
        order = sorted(range(len(passages)), key=lambda index: passages[index].language)
        for language, indexes in groupby(order, key=lambda index: passages[index].language):
            same = list(indexes)
            self._align([encoded[index] for index in same], audio, [passages[index] for index in same], language)

    def decode_plainly(self, audio: np.ndarray, window: Chunk, words: bool) -> list[Passage]:
        """Transcribe a long window with Whisper's own sequential algorithm, as a fallback without batches and chunks.

        Uses one language for the whole window and does not suppress numerals.
        """
        passages = []
        span = raise_quiet(np.array(audio[int(window.start * SAMPLE_RATE) : int(window.end * SAMPLE_RATE)]))

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
            chunk = window.part(start, end)
            passage = Passage(chunk, segment.text, segment.avg_logprob, tokens, language=self._language)
            if segment.words:
                aligned = [
                    AlignedToken(word.word, window.start + word.start, window.start + word.end, word.probability)
                    for word in segment.words
                ]
                passage.words = attention_words(aligned, chunk, written_language(self._options, self._language))
            passages.append(passage)
        return passages

    def tokens(self, text: str) -> list[int]:
        """Tokenize a text."""
        tokens: list[int] = self._tokenizer(self._language).encode(text)
        return tokens

    # --- languages ------------------------------------------------------------------------------------------------

    def _languages(self, encoded: Sequence[Encoding], chunks: Sequence[Chunk]) -> list[str]:
        """Return the language to decode each chunk in."""
        if not self._options.multilingual or not self._about.multilingual:
            return [self._language] * len(chunks)
        ballots = among(self._options.languages, self._whisper.detect_languages(encoded))
        return [
            chunk.language or chunk_language(ballot, chunk, self._language)
            for ballot, chunk in zip(ballots, chunks, strict=True)
        ]

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            tokenizer = Tokenizer(
                self._model.hf_tokenizer, self._about.multilingual, task=self._options.task, language=language
            )
            # The tokenizer splits words by its language code, and a translation is English.
            tokenizer.language_code = written_language(self._options, language)
            self._tokenizers[language] = tokenizer
        return self._tokenizers[language]

    # --- hypotheses -----------------------------------------------------------------------------------------------

    def _generate(
        self, encoded: Sequence[Encoding], chunks: Sequence[Chunk], languages: Sequence[str], **sampling: Any
    ) -> list[Any]:
        """Return CTranslate2's results, one per item of the batch."""
        prompts = [
            self._model.get_prompt(self._tokenizer(language), self._prompt.tokens, without_timestamps=True)
            for language in languages
        ]
        settings = {"suppress_tokens": self._suppressed, **sampling}
        return self._whisper.generate(
            encoded,
            prompts,
            [token_cap(shorten(chunk).seconds) for chunk in chunks],
            return_scores=True,
            return_no_speech_prob=True,
            **settings,
        )

    def _decode_in_full(
        self,
        encoded: list[Encoding],
        hypotheses: list[Hypothesis],
        audio: np.ndarray,
        chunks: Sequence[Chunk],
        languages: Sequence[str],
    ) -> None:
        unsure = [
            index
            for index, (encoding, hypothesis) in enumerate(zip(encoded, hypotheses, strict=True))
            if encoding.is_short and not filters.is_sure(hypothesis)
        ]
        if not unsure:
            return
        again = [chunks[index] for index in unsure]
        full = encode(self._whisper, audio, again)
        results = self._generate(full, again, [languages[index] for index in unsure], beam_size=BEAM_SIZE)
        for index, encoding, result in zip(unsure, full, results, strict=True):
            encoded[index], hypotheses[index] = encoding, self._read(result)

    def _read(self, result: Any) -> Hypothesis:
        tokenizer = self._tokenizer(self._language)
        sequence = result.sequences_ids[0]
        tokens = [token for token in sequence if token < tokenizer.eot]
        # The score is the mean over the tokens; openai/whisper's average also counts the end token.
        avg_logprob = result.scores[0] * len(sequence) / (len(sequence) + 1)
        return Hypothesis(tokenizer.decode(tokens), tokens, avg_logprob, result.no_speech_prob)

    def _choose_hypothesis(
        self, encoded: Sequence[Encoding], chunk: Chunk, language: str, first: Hypothesis, previous: str
    ) -> Hypothesis:
        """Return the first hypothesis if it is good, else one decoded at a higher temperature.

        Accept only a hypothesis that is certainly speech in a doubtful chunk, and probably speech in one that is decoded again.
        """
        if chunk.doubtful:
            return first if filters.is_surely_speech(first) else filters.EMPTY
        if chunk.language:
            return first if filters.is_probably_speech(first) else filters.EMPTY
        repeats = filters.repeats(first, previous)
        if (filters.is_good(first) and not repeats) or filters.is_silence(first):
            return first
        warmer = self._decode_warmer(encoded, chunk, language, first)
        return first if repeats and filters.repeats(warmer, previous) else warmer

    def _decode_warmer(self, encoded: Sequence[Encoding], chunk: Chunk, language: str, first: Hypothesis) -> Hypothesis:
        """Return the first good hypothesis at rising temperatures, else the best one: Whisper's way out of loops."""
        hypotheses = [first]
        for temperature in TEMPERATURES:
            sampling = {"beam_size": 1, "num_hypotheses": BEAM_SIZE, "sampling_topk": 0}
            result = self._generate(encoded, [chunk], [language], sampling_temperature=temperature, **sampling)[0]
            hypotheses.append(self._read(result))
            if filters.is_good(hypotheses[-1]):
                return hypotheses[-1]
        return filters.best(hypotheses)

    def _write_numbers_out(self, encoded: Sequence[Encoding], passages: Sequence[Passage | None]) -> None:
        """Decode passages with numerals again, suppressing them. Keep a good hypothesis that omits no number."""
        found = {index: it for index, it in enumerate(passages) if it and numerals.has_numerals(it.text)}
        if not found:
            return
        suppressed = sorted({*self._suppressed, *numeral_tokens(self._model, self._tokenizer(self._language))})
        results = self._generate(
            [encoded[index] for index in found],
            [passage.chunk for passage in found.values()],
            [passage.language for passage in found.values()],
            beam_size=BEAM_SIZE,
            suppress_tokens=suppressed,
        )
        for passage, result in zip(found.values(), results, strict=True):
            hypothesis = self._read(result)
            split = partial(split_words, language=written_language(self._options, passage.language))
            if filters.is_good(hypothesis) and numerals.keeps_numbers(passage.text, hypothesis.text, split):
                passage.text, passage.tokens, passage.avg_logprob = (
                    hypothesis.text,
                    hypothesis.tokens,
                    hypothesis.avg_logprob,
                )

    def _align(
        self, encoded: Sequence[Encoding], audio: np.ndarray, passages: Sequence[Passage], language: str
    ) -> None:
        shortened = [shorten(passage.chunk) for passage in passages]
        frames = [int(it.seconds * self._model.frames_per_second) for it in shortened]
        tokenizer = self._tokenizer(language)
        aligned = self._whisper.find_alignment(tokenizer, [p.tokens for p in passages], encoded, frames)
        for passage, heard, found in zip(passages, shortened, aligned, strict=True):
            start = passage.chunk.start
            tokens = [
                AlignedToken(
                    item["word"], start + float(item["start"]), start + float(item["end"]), float(item["probability"])
                )
                for item in found
            ]
            speech = heard.shorten(without_silence(audio, passage.chunk))
            words = attention_words(tokens, speech, written_language(self._options, language))
            passage.words = heard.restore(words)


def token_cap(seconds: float) -> int:
    """Limit the tokens for a chunk of this length, so that a loop in a short chunk does not delay its batch.

    Caps come in a few steps, because only chunks with equal caps share a batch. Whisper generates at most 224 tokens
    for 30 s, or 7.5 per second; the scripts with the most tokens, such as Burmese and Amharic, need about 30 per
    second.
    """
    return next((cap for cap in TOKEN_CAPS[:-1] if seconds * MAX_TOKENS_PER_SECOND <= cap), TOKEN_CAPS[-1])


def written_language(options: JobOptions, spoken: str) -> str:
    """Return the language of the text, which determines how words are split."""
    return "en" if options.task == "translate" else spoken
