"""Robustness of recognition: the language, sounds without speech, missed speech, and each job's vocabulary."""

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pytest

from bench.espeak import GERMAN, NUMBERS, SPANISH, speak
from bench.reference import sample_audio
from daemon.pipeline.types import Chunk
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.schema.transcript import Transcript
from tests.support.pipeline import decode_simply, loaded, make_wav2vec2, options, transcribe

RATE = 16_000
SOUNDS: dict[str, Callable[[], np.ndarray]] = {}


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


@pytest.fixture(scope="module")
def exact_pipeline() -> WhisperXPipeline:
    return loaded("float32")[0]


@pytest.fixture
def stages(pipeline: WhisperXPipeline) -> Any:
    return pipeline._stages


def text_of(transcript: Transcript) -> str:
    return " ".join(segment.text for segment in transcript.segments)


def codes_of(transcript: Transcript) -> list[str]:
    return [warning.code for warning in transcript.warnings]


def pause(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def call(start: float, end: float) -> np.ndarray:
    part: np.ndarray = sample_audio()[int(start * RATE) : int(end * RATE)]
    return part


# --- sounds without speech ----------------------------------------------------------------------------------------


def noise(exponent: float, seconds: float = 12.0) -> np.ndarray:
    """Return white (0), pink (1) or brown (2) noise: the power falls with that exponent of the frequency."""
    dice = np.random.default_rng(0)
    spectrum = np.fft.rfft(dice.normal(size=int(seconds * RATE)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2)
    sound: np.ndarray = np.fft.irfft(spectrum)
    return np.asarray(0.5 * sound / np.abs(sound).max(), np.float32)


def tone(seconds: float = 12.0) -> np.ndarray:
    sound: np.ndarray = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)
    return sound.astype(np.float32)


def beeps() -> np.ndarray:
    """Return a busy tone."""
    return (tone() * (np.arange(12 * RATE) % (RATE // 2) < RATE // 4)).astype(np.float32)


def music(seconds: int = 12) -> np.ndarray:
    """Return four repeating chords with a drum every half second."""
    sound = np.zeros(seconds * RATE)
    dice = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    chords = [(220, 277, 330), (196, 247, 294), (175, 220, 262), (196, 247, 294)]
    for beat in range(seconds * 2):
        start = beat * RATE // 2
        for pitch in chords[beat // 4 % 4]:
            for harmonic in (1, 2, 3, 4):
                sound[start : start + len(time)] += (
                    0.2 * np.sin(2 * np.pi * pitch * harmonic * time) / harmonic * np.exp(-2 * time)
                )
        sound[start : start + 2000] += 0.5 * dice.normal(size=2000) * np.exp(-np.arange(2000) / 400)
    return np.asarray(0.6 * sound / np.abs(sound).max(), np.float32)


SOUNDS.update(
    silence=lambda: pause(12),
    white=lambda: noise(0),
    pink=lambda: noise(1),
    brown=lambda: noise(2),
    hiss=lambda: 0.002 * noise(0),
    tone=tone,
    beeps=beeps,
    music=music,
)


DESCRIPTIONS = {
    "silence": "it is digital silence",
    "white": "it has steady noise",
    "pink": "it has steady noise",
    "brown": "it has sound",
    "hiss": "it is almost silent",
    "tone": "it has a tone near 440 Hz",
    "beeps": "it has a tone near 440 Hz",
    "music": "it has a steady sound, such as hum or music",
}


@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_sounds_without_speech_have_no_text(pipeline: WhisperXPipeline, name: str) -> None:
    transcript = transcribe(pipeline, name, SOUNDS[name](), options(model="base"))
    assert (transcript.segments, transcript.language) == ([], None)
    assert codes_of(transcript)[-1] == "no_speech_found"
    assert codes_of(transcript)[:-1] in ([], ["chunk_rejected"])  # the detector takes beeps for speech
    assert DESCRIPTIONS[name] in transcript.warnings[-1].message


@pytest.mark.parametrize("start", [7.0, 9.2, 12.6, 13.0, 15.0])
def test_part_of_a_word_has_no_text(exact_pipeline: WhisperXPipeline, start: float) -> None:
    transcript = transcribe(exact_pipeline, "clip", call(start, start + 0.3), options(model="base"))
    assert transcript.segments == []
    assert codes_of(transcript)[-1] == "no_speech_found"
    assert "it lasts only 0.300 s" in transcript.warnings[-1].message


@pytest.mark.parametrize("name", ["silence", "white", "brown", "hiss", "tone", "music"])
@pytest.mark.parametrize("model", ["base", "tiny.en"])
def test_sounds_that_the_detector_takes_for_speech_have_no_text(
    exact_pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch, name: str, model: str
) -> None:
    take_all_for_speech(exact_pipeline._stages, monkeypatch)
    # Of the hiss, Whisper makes a loop of the longest possible text at every temperature, in several seconds each.
    monkeypatch.setattr("daemon.pipeline.asr.decoding.TEMPERATURES", (1.0,))
    transcript = transcribe(exact_pipeline, name, SOUNDS[name](), options(model=model, diarize=False))
    assert transcript.segments == []
    assert codes_of(transcript) == ["chunk_rejected", "no_speech_found"]
    assert "0.0-12.0 s" in transcript.warnings[0].message


def take_all_for_speech(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.speech.detector import Speech

    def detect(audio: np.ndarray, *_: Any) -> Speech:
        end = len(audio) / RATE
        return Speech([Chunk(0.0, end, ((0.0, end),))], None)

    monkeypatch.setattr(stages.detector, "detect", detect)


# --- quiet speech -------------------------------------------------------------------------------------------------


def at_level(sound: np.ndarray, decibels: float) -> np.ndarray:
    """Return the sound at the level, as 16-bit samples hold it."""
    level = np.sqrt(np.mean(sound**2))
    return np.asarray(np.round(sound / level * 10 ** (decibels / 20) * 2**15) / 2**15, np.float32)


def words_found(transcript: Transcript, usual: Transcript) -> float:
    """Return the share of the usual transcript's words that are in the other one, in order."""
    words, expected = (re.findall(r"[\w']+", text_of(it).casefold()) for it in (transcript, usual))
    matcher = SequenceMatcher(None, words, expected, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(expected)


def test_very_quiet_speech_loses_no_words(exact_pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_simply(monkeypatch)
    plain = options(model="base", language="en", diarize=False)
    usual, *quiet = (
        transcribe(exact_pipeline, f"{decibels} dB", at_level(call(6, 17), decibels), plain)
        for decibels in (-20, -55, -65, -72)
    )
    for transcript in quiet:
        assert words_found(transcript, usual) > 0.8, transcript.job_id
        assert transcript.segments[-1].end == pytest.approx(usual.segments[-1].end, abs=0.3), transcript.job_id


def test_quiet_voice_after_a_loud_one_loses_no_words(
    exact_pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_simply(monkeypatch)
    plain = options(model="base", language="en", diarize=False)
    loud, quiet = (np.concatenate([at_level(call(6, 17), -20), at_level(call(17, 28), db)]) for db in (-20, -55))
    usual = transcribe(exact_pipeline, "usual", loud, plain)
    assert words_found(transcribe(exact_pipeline, "quiet", quiet, plain), usual) > 0.85


# --- loops --------------------------------------------------------------------------------------------------------


def test_a_looping_chunk_alone_is_decoded_again(
    pipeline: WhisperXPipeline, stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass returns a loop for the first of two chunks."""
    from daemon.pipeline.asr.decoding import WhisperDecoder

    generate = WhisperDecoder._generate
    warmer: list[int] = []
    with stages.whisper.borrowed("tiny.en") as model:
        loop = model.hf_tokenizer.encode(" I'm sorry." * 5, add_special_tokens=False).ids

    def loops(self: WhisperDecoder, encoded: Any, chunks: Any, languages: Any, **sampling: Any) -> Any:
        results = generate(self, encoded, chunks, languages, **sampling)
        if "sampling_temperature" in sampling:
            warmer.append(len(languages))
            return results
        return [Looping(results[0], loop), *results[1:]]

    monkeypatch.setattr(WhisperDecoder, "_generate", loops)
    audio = np.concatenate([call(12.5, 14.3), pause(40), call(14.3, 20.2)])
    transcript = transcribe(pipeline, "loop", audio, options(diarize=False))
    assert warmer
    assert set(warmer) == {1}
    assert "sorry" not in text_of(transcript)
    assert "Jersey" in text_of(transcript)
    assert "Chicago" in text_of(transcript)


class Looping:
    """A CTranslate2 result with replaced tokens, as probable as Whisper considers loops."""

    def __init__(self, result: Any, tokens: list[int]) -> None:
        self.sequences_ids = [tokens]
        self.scores = [-0.1]
        self.no_speech_prob = result.no_speech_prob


def test_a_loop_in_a_short_chunk_ends_early(pipeline: WhisperXPipeline, stages: Any) -> None:
    """Whisper may not end its text: it continues up to the cap, whatever the prompt's length, and others in the same
    call up to theirs."""
    from daemon.pipeline.asr.decoding import token_cap
    from daemon.pipeline.asr.encoding import encode
    from daemon.pipeline.runtime.reporter import NullReporter
    from daemon.pipeline.runtime.work import StageTimer

    chunks = [Chunk(12.5, 12.5 + seconds, ()) for seconds in (1.5, 3.0, 6.0)]
    with stages.engine.session("tiny.en", 4, StageTimer(NullReporter())) as whisper:
        tokenizer = whisper.about.model.hf_tokenizer
        eot, sot, previous = map(tokenizer.token_to_id, ("<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>"))
        encoded = encode(whisper, sample_audio(), chunks)
        caps = [token_cap(chunk.end - chunk.start) for chunk in chunks]
        for prompt in ([sot], [previous, *[1000] * 99, sot]):
            results = whisper.generate(encoded, [prompt] * 3, caps, suppress_tokens=[eot], beam_size=1)
            assert [len(result.sequences_ids[0]) for result in results] == [64, 128, 224], len(prompt)


# --- missed speech ------------------------------------------------------------------------------------------------


def test_quiet_speech_that_was_passed_over_is_found(
    pipeline: WhisperXPipeline, stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speech detection misses the part between 16 and 26 s, as with a distant voice; noise in that part yields no
    text."""
    from dataclasses import replace

    detect = stages.detector.detect
    loud, quiet = call(7.6, 21.6), 0.02 * call(12.4, 17.9)
    floor = np.random.default_rng(0).normal(0, 1e-5, 60 * RATE).astype(np.float32)

    def passes_over(audio: np.ndarray, *arguments: Any) -> Any:
        speech = detect(audio, *arguments)
        if len(audio) < 30 * RATE:  # a gap alone
            return speech
        heard = [chunk for whole in speech.chunks for chunk in regions_of(whole) if not 15 < chunk.start < 27]
        return replace(speech, chunks=heard)

    def recording(middle: np.ndarray) -> np.ndarray:
        audio = np.concatenate([loud, pause(4), middle, pause(4), loud])
        return audio + floor[: len(audio)]

    monkeypatch.setattr(stages.detector, "detect", passes_over)
    decode_simply(monkeypatch)
    transcript = transcribe(pipeline, "quiet", recording(quiet), options(model="base", language="en", diarize=False))
    found = [segment for segment in transcript.segments if 16 < segment.start < 26]
    assert "New Jersey" in " ".join(segment.text for segment in found)
    assert codes_of(transcript) == []

    instead = 0.02 * noise(1, len(quiet) / RATE)
    transcript = transcribe(pipeline, "noise", recording(instead), options(model="base", language="en", diarize=False))
    assert [segment for segment in transcript.segments if 16 < segment.start < 26] == []


def test_sentence_omitted_after_a_pause_is_recognized_alone(pipeline: WhisperXPipeline) -> None:
    """Whisper base skips the first sentence after the pause."""
    said = call(12.4, 20.2)
    audio = np.concatenate([pause(0.5), said, pause(5), said, pause(0.5)])
    transcript = transcribe(pipeline, "omitted", audio, options(model="base", language="en", diarize=False))
    times = [word.start for segment in transcript.segments for word in segment.words if "Jersey" in word.word]
    assert len(times) == 2
    assert times[1] - times[0] == pytest.approx(12.8, abs=0.5)
    assert not any(8.8 < word.end < 13.3 for segment in transcript.segments for word in segment.words)


def test_speech_in_which_nothing_is_recognized_is_named(
    pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Whatever is read of the second utterance is lost, also when it is decoded alone."""
    from daemon.pipeline.asr.decoding import WhisperDecoder
    from daemon.pipeline.asr.filters import EMPTY

    align = WhisperDecoder.align

    def loses_the_second(self: WhisperDecoder, encoded: Any, audio: Any, passages: Any) -> None:
        align(self, encoded, audio, passages)
        for passage in passages:
            passage.words = [word for word in passage.words if word.end < 4]

    monkeypatch.setattr(WhisperDecoder, "align", loses_the_second)
    monkeypatch.setattr(
        WhisperDecoder, "_choose_hypothesis", lambda self, _, chunk, __, first, ___: EMPTY if chunk.language else first
    )
    audio = np.concatenate([call(14.3, 16.3), pause(3), call(18.5, 20.2)])
    job = options(language="en", diarize=False)
    transcript = transcribe(pipeline, "lost", audio, job, folder=tmp_path)
    assert codes_of(transcript) == ["speech_unrecognized"]
    assert re.search(r" [45]\.\d-6\.\d s", transcript.warnings[0].message)
    assert transcribe(pipeline, "lost", audio, job, folder=tmp_path).warnings == transcript.warnings  # resumed


def regions_of(chunk: Chunk) -> list[Chunk]:
    return [Chunk(start, end, ((start, end),)) for start, end in chunk.regions]


# --- languages ----------------------------------------------------------------------------------------------------


def test_initial_minute_of_music_does_not_decide_the_language(pipeline: WhisperXPipeline) -> None:
    audio = np.concatenate([music(60), speak(GERMAN, "de")])
    transcript = transcribe(pipeline, "music", audio, options(model="base", diarize=False))
    assert transcript.language == "de"
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.7
    assert next(iter(transcript.language_probabilities)) == "de"
    assert "Deutschland" in text_of(transcript)
    assert codes_of(transcript) == []
    assert all(segment.start >= 59 for segment in transcript.segments)


def test_start_in_another_language_does_not_decide_the_language(
    pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_simply(monkeypatch)
    german = speak(GERMAN, "de")
    audio = np.concatenate([call(7, 30), *[german, pause(1)] * 4])
    transcript = transcribe(pipeline, "mostly", audio, options(model="base", diarize=False, align="off"))
    assert transcript.language == "de"
    assert 0.5 < transcript.language_probabilities["de"] < 0.9
    assert transcript.language_probabilities["en"] > 0.1
    assert transcript.language_probability == transcript.language_probabilities["de"]
    assert "language_split" in codes_of(transcript)  # what is in the other language may be unrecognized besides


@pytest.mark.parametrize(("seconds", "text", "language"), [(1, GERMAN, "de"), (1, SPANISH, "es"), (5, SPANISH, "es")])
def test_second_language_inside_a_chunk_is_reported(
    pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch, seconds: int, text: str, language: str
) -> None:
    """The chunk's own vote is for neither language: its parts between pauses vote again. What is said between long pauses
    votes alone from the start."""
    decode_simply(monkeypatch)
    audio = np.concatenate([call(7, 17), pause(seconds), speak(text, language)])
    transcript = transcribe(pipeline, "half", audio, options(model="base", diarize=False, align="off"))
    [warning] = [warning for warning in transcript.warnings if warning.code == "language_split"]
    either = f"(en|{language})"
    assert re.search(rf"\(\d\d% {either}, \d\d% {either}\) was all decoded as {either};", warning.message)
    assert "options.multilingual" in warning.message


@pytest.mark.parametrize("seconds", [(6, 8), (7, 30)])
def test_one_language_is_not_reported_as_split(
    pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch, seconds: tuple[int, int]
) -> None:
    decode_simply(monkeypatch)
    transcript = transcribe(pipeline, "one", call(*seconds), options(model="base", diarize=False, align="off"))
    assert (transcript.language, codes_of(transcript)) == ("en", [])


def test_each_part_of_a_mixed_recording_is_transcribed_in_its_language(
    exact_pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_simply(monkeypatch)
    audio = np.concatenate([call(7, 30), pause(2), speak(GERMAN, "de"), pause(2), speak(SPANISH, "es")])
    transcript = transcribe(exact_pipeline, "mixed", audio, options(model="base", diarize=False, multilingual=True))
    assert transcript.language == "en"
    by_language = {
        language: " ".join(segment.text for segment in transcript.segments if segment.language == language)
        for language in ("en", "de", "es")
    }
    assert "New Jersey" in by_language["en"]
    assert "in Deutschland" in by_language["de"]
    assert "Hoy vamos a hablar" in by_language["es"]
    assert transcript.models.alignment == "attention"


def test_only_allowed_languages_are_detected(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the recording and for each of its chunks: without German, that part is in one of the others."""
    decode_simply(monkeypatch)
    audio = np.concatenate([call(7, 17), pause(2), speak(GERMAN, "de")])
    job = options(model="base", diarize=False, align="off", multilingual=True, languages=["en", "es"])
    transcript = transcribe(pipeline, "allowed", audio, job)
    assert set(transcript.language_probabilities) == {"en", "es"}
    assert {segment.language for segment in transcript.segments} <= {"en", "es"}


def test_aligner_is_that_of_the_language(
    pipeline: WhisperXPipeline, stages: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligner, Aligners

    decode_simply(monkeypatch)
    model = make_wav2vec2(tmp_path)
    monkeypatch.setattr(stages, "aligners", Aligners((f"de={model}",), stages.device))
    aligned: list[str] = []
    align = Aligner.align

    def counted(self: Aligner, passages: Any, audio: np.ndarray) -> Any:
        aligned.extend(passage.language for passage in passages)
        return align(self, passages, audio)

    monkeypatch.setattr(Aligner, "align", counted)
    audio = np.concatenate([call(12, 21), pause(2), speak(GERMAN, "de")])
    job = options(model="base", diarize=False, multilingual=True, align="auto", language="en")
    transcript = transcribe(pipeline, "aligned", audio, job)
    assert transcript.language == "en"
    assert aligned
    assert set(aligned) == {"de"}
    assert transcript.models.alignment == ",".join(sorted((str(model), "attention")))
    assert codes_of(transcript) == ["alignment_fallback"]
    assert all(segment.words for segment in transcript.segments)


def test_chunks_encoded_for_language_detection_are_not_encoded_again(
    pipeline: WhisperXPipeline, stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transcript is that of a job that encodes everything again, whether all chunks were polled or some."""
    from daemon.pipeline.asr import encoding
    from daemon.pipeline.asr.language import voters
    from daemon.pipeline.job import recognition

    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 5)
    monkeypatch.setattr(stages, "batch_size", 3)
    decode_simply(monkeypatch)
    encode = encoding.encode
    encoded: list[Chunk] = []

    def counted(whisper: Any, audio: np.ndarray, chunks: Any, **padding: bool) -> Any:
        encoded.extend(chunks)
        return encode(whisper, audio, chunks, **padding)

    def run(polled: int) -> tuple[Any, ...]:
        encoded.clear()
        monkeypatch.setattr(recognition, "voters", lambda chunks: voters(chunks, polled))
        transcript = transcribe(pipeline, f"{polled} polled", call(7, 21), options(model="base", diarize=False))
        return transcript.language, transcript.language_probabilities, text_of(transcript)

    monkeypatch.setattr(encoding, "encode", counted)
    monkeypatch.setattr(recognition, "encode", counted)
    all_polled = run(8)
    assert len(encoded) == len(set(encoded)) > 3
    some_polled = run(2)
    assert len(encoded) == len(set(encoded)) > 3
    monkeypatch.setattr(
        recognition, "encode_rest", lambda whisper, audio, chunks, _, **__: counted(whisper, audio, chunks)
    )
    assert run(8) == all_polled
    assert len(encoded) > len(set(encoded))
    assert some_polled[2] == all_polled[2]


# --- translation, prompts, numerals -------------------------------------------------------------------------------


def test_translation_is_english(pipeline: WhisperXPipeline) -> None:
    job = options(model="base", diarize=False, task="translate")
    transcript = transcribe(pipeline, "translated", speak(GERMAN, "de"), job)
    assert (transcript.task, transcript.language) == ("translate", "de")
    assert {segment.language for segment in transcript.segments} == {"de"}
    # The spelling of the country varies with the processor's rounding.
    assert re.search(r"\bGood day\b.*\bweather in (Germany|Deutschland)\b.*\bsun\b", text_of(transcript))


def test_words_of_a_translation_are_spaced_whatever_was_spoken(pipeline: WhisperXPipeline) -> None:
    """Japanese has no spaces, but the English text has."""
    job = options(model="base", diarize=False, task="translate", language="ja")
    transcript = transcribe(pipeline, "spaced", call(12.4, 20.2), job)
    words = [word.word for segment in transcript.segments for word in segment.words]
    assert "Chicago" in text_of(transcript)
    assert " ".join(words) == text_of(transcript)
    assert not any(" " in word for word in words)


def test_vocabulary_affects_only_its_own_job(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_simply(monkeypatch)
    audio = call(6.5, 14.3)
    plain = options(model="base", language="en", diarize=False)
    named = plain.model_copy(update={"vocabulary": ["Dianne"]})
    before = transcribe(pipeline, "1", audio, plain)
    spelt = transcribe(pipeline, "2", audio, named)
    after = transcribe(pipeline, "3", audio, plain)
    assert "Dianne" in text_of(spelt)
    assert "Dianne" not in text_of(before)
    assert after.segments == before.segments


def test_terms_that_do_not_fit_are_reported(pipeline: WhisperXPipeline) -> None:
    job = options(vocabulary=[f"Pneumonoultramicroscopic{number}" for number in range(100)], diarize=False)
    transcript = transcribe(pipeline, "cut", call(12.4, 14.3), job)
    assert codes_of(transcript) == ["vocabulary_cut"]


def test_numbers_are_written_out_and_none_is_lost(pipeline: WhisperXPipeline, stages: Any) -> None:
    from daemon.pipeline.asr.whisper_models import numeral_tokens

    audio = speak(NUMBERS, "en-us")
    plain = options(model="base", language="en", diarize=False)
    in_words = text_of(transcribe(pipeline, "words", audio, plain.model_copy(update={"suppress_numerals": True})))
    digits = text_of(transcribe(pipeline, "digits", audio, plain))
    assert "1984" in digits
    assert "25" in digits
    assert not re.search(r"[\d$]", in_words)
    assert re.search(r"eighty.four.*twenty.five.*three hundred dollars", in_words)
    with stages.whisper.borrowed("base") as model:
        assert numeral_tokens(model, None) is numeral_tokens(model, None)  # kept, because it would need a tokenizer


def test_number_that_would_be_lost_is_kept(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    read = WhisperDecoder._read

    def drops_the_year(self: WhisperDecoder, result: Any) -> Any:
        from dataclasses import replace

        hypothesis = read(self, result)
        return replace(hypothesis, text=re.sub(r" nineteen (hundred )?(and )?eighty.four", "", hypothesis.text))

    monkeypatch.setattr(WhisperDecoder, "_read", drops_the_year)
    job = options(model="base", language="en", diarize=False, suppress_numerals=True)
    assert "1984" in text_of(transcribe(pipeline, "lost", speak(NUMBERS, "en-us"), job))
