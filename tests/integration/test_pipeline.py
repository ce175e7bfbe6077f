"""The pipeline with real models: unusual input, each job option, and failures."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from bench.reference import sample_audio
from bench.waiting import PATIENCE_SECONDS
from daemon.config import Settings
from daemon.errors import DeviceFault, Interrupted, ModelUnavailable, OutOfMemory, SetupFailed
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.protocol.events import STAGES
from daemon.protocol.messages import Setup, decode, encode
from daemon.schema.catalog import HUB_DIARIZATION
from daemon.schema.transcript import Transcript
from daemon.supervisor.devices import Device
from daemon.supervisor.process import runner_settings
from daemon.weights.packaged import whisper_tiny_en
from tests.support.pipeline import Recorder, decode_simply, loaded, make_wav2vec2, options, settings, transcribe

RATE = 16_000


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


@pytest.fixture(autouse=True)
def _simple_decoding(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_simply(monkeypatch)


@pytest.fixture
def stages(pipeline: WhisperXPipeline) -> Any:
    return pipeline._stages


@pytest.fixture(scope="module")
def greeting() -> np.ndarray:
    """Seven seconds of the call in which both speak."""
    return sample_audio()[int(6.5 * RATE) : int(13.5 * RATE)]


def text_of(transcript: Transcript) -> str:
    return " ".join(segment.text for segment in transcript.segments)


def codes_of(transcript: Transcript) -> list[tuple[str, str]]:
    return [(warning.code, warning.stage) for warning in transcript.warnings]


def failing(message: str, kind: type[Exception] = RuntimeError) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise kind(message)

    return fail


# --- successful jobs ----------------------------------------------------------------------------------------------


def test_ready_lists_the_loaded_models() -> None:
    _, ready = loaded()
    print(f"\nload: {ready.load_seconds} s")
    assert (ready.device, ready.compute_type) == ("cpu", "int8")
    assert ready.device_name
    assert ready.models["asr"] == "base"
    assert ready.models["diarize"] == "embedded"
    assert set(ready.models) == set(STAGES)


def test_memory_map_passes_every_stage_without_output(
    pipeline: WhisperXPipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "audio.f32"
    sample_audio().tofile(path)
    audio = np.memmap(path, dtype="<f4", mode="r")
    reporter = Recorder()

    transcript = transcribe(pipeline, "job-1", audio, options(), reporter)

    assert transcript.job_id == "job-1"
    assert transcript.duration_seconds == 30.0
    assert list(transcript.timings_seconds) == list(STAGES)
    assert set(reporter.done) == set(STAGES)
    assert [stage for stage in STAGES if (stage, 1.0) in reporter.fractions] == list(STAGES)
    for stage in STAGES:
        fractions = [fraction for name, fraction in reporter.fractions if name == stage]
        assert fractions == sorted(fractions)
    assert {stage for stage, _ in reporter.beside} == {"diarize"}, "it is shown while it runs beside the words"
    assert reporter.beside[-1] == ("diarize", 1.0)
    (batch,) = reporter.batches
    assert 1 <= batch[0] <= batch[1], "the call's chunks fit into one batch"
    assert reporter.chunks == [(batch[0], 0, 0)]
    assert transcript.warnings == []
    assert transcript.models.alignment == "attention"
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("seconds", [0, 0.01, 0.5, 12])
def test_silence_gives_an_empty_transcript(pipeline: WhisperXPipeline, seconds: float) -> None:
    reporter = Recorder()
    transcript = transcribe(
        pipeline, "silent", np.zeros(int(seconds * RATE), np.float32), options(model="base"), reporter
    )
    assert transcript.segments == []
    assert transcript.speakers == []
    (warning,) = transcript.warnings
    assert (warning.code, warning.stage) == ("no_speech_found", "vad")
    described = "is digital silence" if seconds >= 0.5 else f"lasts only {seconds:.3f} s"
    assert warning.message == f"no words were found: it {described}"
    assert transcript.language is None
    assert transcript.language_probability is None
    assert list(reporter.done) == ["vad"]


def test_silence_keeps_the_given_language(pipeline: WhisperXPipeline) -> None:
    silence = np.zeros(RATE, np.float32)
    assert transcribe(pipeline, "silent", silence, options(model="base", language="fr")).language == "fr"


def test_one_short_utterance_with_two_speakers_expected(pipeline: WhisperXPipeline) -> None:
    audio = sample_audio()[int(12.5 * RATE) : int(14.3 * RATE)]
    transcript = transcribe(pipeline, "short", audio, options(min_speakers=2))
    assert "New Jersey" in text_of(transcript)
    assert transcript.speakers == ["SPEAKER_00"]
    assert transcript.warnings == [], "the bound is the deployment's default"
    own = transcribe(pipeline, "short", audio, options(min_speakers=2, own_speaker_bounds=["min_speakers"]))
    assert codes_of(own) == [("speaker_bounds_unmet", "diarize")]
    assert own.warnings[0].message == "min_speakers is 2, but the transcript has 1 speaker"


def test_nothing_leaks_from_one_job_to_the_next(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    plain = options(model="base", language="en", diarize=False)
    shouted = plain.model_copy(update={"initial_prompt": "HELLO? HELLO? I SAID HELLO.", "hotwords": "NEITHER"})
    german = plain.model_copy(update={"language": "de"})

    first = transcribe(pipeline, "1", greeting, plain)
    prompted = transcribe(pipeline, "2", greeting, shouted)
    translated = transcribe(pipeline, "3", greeting, german)
    again = transcribe(pipeline, "4", greeting, plain)

    assert "HELLO" in text_of(prompted)
    assert translated.language == "de"
    assert text_of(translated) != text_of(first)
    assert again.segments == first.segments


def test_prompt_and_hotwords_of_any_length(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    long = options(initial_prompt="你好" * 400, hotwords="ß" * 1000, diarize=False)
    assert transcribe(pipeline, "long", greeting, long).warnings == []


def test_without_alignment_there_are_segments_and_no_words(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    reporter = Recorder()
    transcript = transcribe(pipeline, "off", greeting, options(align="off"), reporter)
    assert len(transcript.segments) > 2
    assert all(segment.words == [] for segment in transcript.segments)
    assert transcript.models.alignment is None
    assert "align" not in reporter.done
    assert "align" not in transcript.timings_seconds
    assert transcript.warnings == []


def test_without_diarization_there_are_no_speakers(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    transcript = transcribe(pipeline, "alone", greeting, options(diarize=False))
    assert transcript.speakers == []
    assert transcript.models.diarization is None
    assert {word.speaker for segment in transcript.segments for word in segment.words} == {None}


def test_job_can_be_cancelled_between_batches(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    complete = Recorder()
    transcribe(pipeline, "counted", greeting, options(), complete)
    # The number of checks depends on how long a job waits, so its last checks may not happen in another run.
    for check in {1, 2, complete.checks // 4, complete.checks // 2}:
        with pytest.raises(Interrupted):
            transcribe(pipeline, "cancelled", greeting, options(), Recorder(cancel_at=check))


@pytest.mark.parametrize(
    "bounds",
    [
        {"num_speakers": 2, "min_speakers": None, "max_speakers": None},
        {"num_speakers": None, "min_speakers": 3, "max_speakers": 5},
    ],
)
def test_the_number_of_speakers_reaches_pyannote_by_name(
    stages: Any,
    pipeline: WhisperXPipeline,
    greeting: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    bounds: dict[str, int | None],
) -> None:
    """By name, because their order differs between pyannote, whisperx and our code."""
    calls: list[dict[str, Any]] = []
    diarize = stages.diarizer._pipeline

    def recorded(file: dict[str, Any], **arguments: Any) -> Any:
        calls.append(arguments)
        return diarize(file, **arguments)

    monkeypatch.setattr(stages.diarizer, "_pipeline", recorded)
    own = [name for name, bound in bounds.items() if bound is not None]
    transcribe(pipeline, "bounds", greeting, options(**bounds, own_speaker_bounds=own))
    assert [{name: call[name] for name in bounds} for call in calls] == [bounds]
    transcribe(pipeline, "defaults", greeting, options(min_speakers=3, max_speakers=5))
    # Like any pipeline of the hub, the recording one is given the deployment's maximum, but never its minimum.
    assert [calls[1][name] for name in ("num_speakers", "min_speakers", "max_speakers")] == [None, None, 5]


@pytest.mark.parametrize(("number", "found"), [(1, {1}), (2, {2}), (3, {1, 2, 3})])
def test_requested_number_of_speakers(
    pipeline: WhisperXPipeline, greeting: np.ndarray, number: int, found: set[int]
) -> None:
    job = options(num_speakers=number, min_speakers=None, max_speakers=None, own_speaker_bounds=["num_speakers"])
    transcript = transcribe(pipeline, "number", greeting, job)
    assert len(transcript.speakers) in found
    unmet = [("speaker_bounds_unmet", "diarize")] if len(transcript.speakers) != number else []
    assert codes_of(transcript) == unmet
    for segment in transcript.segments:
        assert segment.speaker in transcript.speakers
        assert all(word.speaker in transcript.speakers for word in segment.words)


def test_embeddings_are_returned_on_request(stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    import torch

    audio = sample_audio()
    transcript = transcribe(pipeline, "voices", audio, options(speaker_embeddings=True))
    voices = transcript.speaker_embeddings
    assert voices is not None
    assert list(voices) == transcript.speakers == ["SPEAKER_00", "SPEAKER_01"]
    for name, voice in voices.items():
        assert len(voice) == 192
        assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-4)
        # The label matches the voice: this speaker's segments are closer to it than to the other one.
        own = [segment for segment in transcript.segments if segment.speaker == name]
        heard = np.concatenate([audio[int(segment.start * RATE) : int(segment.end * RATE)] for segment in own])
        [embedding] = stages.diarizer._pipeline._embedding(torch.tensor(heard)[None, None])
        assert max(voices, key=lambda other: float(np.dot(voices[other], embedding))) == name
    unasked = transcribe(pipeline, "unasked", greeting, options())
    assert unasked.speakers
    assert unasked.speaker_embeddings is None
    alone = transcribe(pipeline, "alone", greeting, options(speaker_embeddings=True, diarize=False))
    assert alone.speaker_embeddings is None


def test_voice_unknown_to_pyannote_is_omitted(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
    from pyannote.core import Annotation, Segment

    turns = Annotation()
    for index, label in enumerate("ABC"):
        turns[Segment(index, index + 1)] = label
    centroids = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]])
    monkeypatch.setattr(stages.diarizer, "_pipeline", lambda *_, **__: DiarizeOutput(turns, turns, centroids))
    assert stages.diarizer.diarize(sample_audio(), None, lambda _: None).voices == {"A": [0.6, 0.8]}


def test_noise_detected_as_speech_is_decoded_again_and_ends(
    stages: Any, pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr import decoding as asr
    from daemon.pipeline.asr import filters as filters
    from daemon.pipeline.speech.detector import Speech
    from daemon.pipeline.types import Chunk

    noise = np.random.default_rng(1).normal(0, 0.1, 4 * RATE).astype(np.float32)
    monkeypatch.setattr(stages.detector, "detect", lambda *_: Speech([Chunk(0.0, 4.0, ((0.0, 4.0),))], None))
    # No hypothesis is that certain, so every temperature is tried.
    monkeypatch.setattr(filters, "MIN_AVG_LOGPROB", -0.01)
    monkeypatch.setattr(asr, "TEMPERATURES", (0.2, 1.0))
    monkeypatch.setattr(filters, "MAX_NO_SPEECH_PROBABILITY", 1.0)  # and Whisper itself never reports silence
    heard = transcribe(pipeline, "noise", noise, options())
    assert heard.segments == []
    assert [warning.code for warning in heard.warnings] == ["chunk_rejected", "no_speech_found"]


def test_attention_times_are_corrected() -> None:
    from daemon.pipeline.alignment.attention import attention_words
    from daemon.pipeline.alignment.words import AlignedToken
    from daemon.pipeline.types import Chunk

    pieces = [
        AlignedToken(" Yes", 0.0, 0.4, 0.9),
        AlignedToken(".", 0.4, 0.8, 0.9),  # half of it is the end of the word
        AlignedToken(" No", 0.8, 1.0, 0.9),
        AlignedToken(".", 1.0, 1.4, 0.9),
        AlignedToken(" I", 1.4, 1.4, 0.9),  # has no time: it was spoken during the punctuation mark
        AlignedToken(" do", 1.4, 2.8, 0.9),  # stretched over the pause from 2 to 3
        AlignedToken(".", 2.8, 2.9, 0.9),
        AlignedToken(" Ha", 3.3, 3.6, 0.9),  # the speech starts at 3
    ]
    words = attention_words(pieces, Chunk(0.0, 4.0, ((0.0, 2.0), (3.0, 4.0))), "en")
    assert [word.text for word in words] == [" Yes.", " No.", " I", " do.", " Ha"]
    assert [(word.start, word.end) for word in words] == [
        (0.0, pytest.approx(0.6)),
        (0.8, 1.0),
        (1.0, 1.4),
        (1.4, 2.0),
        (3.0, 3.6),
    ]


# --- word alignment with wav2vec2 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wav2vec2(pipeline: WhisperXPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


def test_wav2vec2_aligns_every_word(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, wav2vec2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligners

    by_attention = transcribe(pipeline, "a", greeting, options(diarize=False))
    monkeypatch.setattr(stages, "aligners", Aligners((f"en={wav2vec2}",), stages.device))
    transcript = transcribe(pipeline, "w", greeting, options(align="auto", diarize=False))

    assert transcript.warnings == []
    assert transcript.models.alignment == str(wav2vec2)
    assert text_of(transcript).split() == text_of(by_attention).split()
    for segment in transcript.segments:
        assert segment.text == " ".join(word.word for word in segment.words)
        assert all(segment.start <= word.start <= word.end <= segment.end for word in segment.words)


def test_wav2vec2_keeps_numbers_and_signs(stages: Any, greeting: np.ndarray, wav2vec2: Path) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligners
    from daemon.pipeline.types import Chunk, Passage

    aligner = Aligners((f"en={wav2vec2}",), stages.device).get("en", required=False)
    for text in (" It was 1984, at 5 % … “Really?”", " 1984", " …", " 你好，世界。"):
        [words] = aligner.align([Passage(Chunk(1.0, 6.0, ((1.0, 6.0),)), text, None, language="en")], greeting)
        assert "".join(word.text for word in words) == text
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 1.0 <= times[0] <= times[-1] <= 6.0


def test_failing_wav2vec2_falls_back_to_attention(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, wav2vec2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligner, Aligners

    by_attention = transcribe(pipeline, "a", greeting, options(diarize=False))
    monkeypatch.setattr(stages, "aligners", Aligners((f"en={wav2vec2}",), stages.device))
    monkeypatch.setattr(Aligner, "align", failing("backtrack"))
    transcript = transcribe(pipeline, "w", greeting, options(align="wav2vec2", diarize=False))

    assert codes_of(transcript) == [("alignment_fallback", "align")]
    assert transcript.models.alignment == "attention"
    assert transcript.segments == by_attention.segments


def test_wav2vec2_without_memory_falls_back_to_attention(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, wav2vec2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligner, Aligners

    monkeypatch.setattr(stages, "aligners", Aligners((f"en={wav2vec2}",), stages.device))
    monkeypatch.setattr(Aligner, "align", failing("CUDA out of memory. Tried to allocate 2.00 GiB"))
    transcript = transcribe(pipeline, "w", greeting, options(diarize=False, align="auto"))

    assert codes_of(transcript) == [("alignment_fallback", "align")]
    assert "not enough memory" in transcript.warnings[0].message
    assert transcript.models.alignment == "attention"
    words = [word for segment in transcript.segments for word in segment.words]
    assert all(word.score is not None for word in words)


def test_unavailable_model_is_a_warning(pipeline: WhisperXPipeline, greeting: np.ndarray) -> None:
    transcript = transcribe(pipeline, "auto", greeting, options(align="auto", diarize=False))
    assert codes_of(transcript) == [("alignment_fallback", "align")]
    assert transcript.models.alignment == "attention"


def test_model_that_cannot_be_loaded_is_not_retried_for_every_job(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.alignment import wav2vec2 as alignment

    calls = []
    now = 1000.0

    def load(language: str, *_: Any, **__: Any) -> Any:
        calls.append(language)
        raise ValueError("no network")

    monkeypatch.setattr("daemon.pipeline.alignment.wav2vec2.whisperx_alignment.load_align_model", load)
    monkeypatch.setattr("daemon.pipeline.alignment.wav2vec2.time.monotonic", lambda: now)
    aligners = alignment.Aligners((), stages.device)
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="jonatasgrosman"):
            aligners.get("nl", required=True)
    assert calls == ["nl"]
    now += alignment.RETRY_SECONDS
    with pytest.raises(ModelUnavailable):
        aligners.get("nl", required=True)
    assert calls == ["nl", "nl"]


@pytest.mark.parametrize("item", ["en", "=x", "en="])
def test_alignment_models_must_name_language_and_model(stages: Any, item: str) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligners

    with pytest.raises(SetupFailed, match="language=name-or-folder"):
        Aligners((item,), stages.device)


# --- fallbacks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_chunks() -> np.ndarray:
    """A minute of speech, more than Whisper decodes in one chunk."""
    return np.concatenate([sample_audio(), sample_audio()])


def test_out_of_memory_halves_the_batch(
    pipeline: WhisperXPipeline, two_chunks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    decode = WhisperDecoder.decode
    sizes = []

    def needs_memory(self: WhisperDecoder, encoded: Any, audio: np.ndarray, chunks: Any) -> Any:
        sizes.append(len(chunks))
        if len(chunks) > 1:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(self, encoded, audio, chunks)

    monkeypatch.setattr(WhisperDecoder, "decode", needs_memory)
    transcript = transcribe(pipeline, "oom", two_chunks, options(diarize=False))
    assert sizes == [2, 2, 2, 1, 1]  # batches of 8, 4, 2, then single chunks
    assert codes_of(transcript) == [("batch_reduced", "asr")]
    assert transcript.warnings[0].message.endswith("batch size 1")
    assert transcript.segments[-1].end > 50


def test_out_of_memory_halves_the_batch_of_vad_and_diarization(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {"vad": [], "diarize": []}

    def needs_memory(stage: str, action: Callable[..., Any], size: int) -> Any:
        sizes[stage].append(size)
        if size > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return action()

    detect, diarize = stages.detector.detect, stages.diarizer.diarize
    monkeypatch.setattr(
        stages.detector, "detect", lambda audio, on, size: needs_memory("vad", lambda: detect(audio, on, size), size)
    )
    monkeypatch.setattr(
        stages.diarizer,
        "diarize",
        lambda *arguments, batch_size, **bounds: needs_memory(
            "diarize", lambda: diarize(*arguments, batch_size=batch_size, **bounds), batch_size
        ),
    )
    transcript = transcribe(pipeline, "oom", greeting, options())
    whole = 8 * stages.lanes.count
    halves = [size for size in (whole >> step for step in range(whole.bit_length())) if size >= 2]
    assert sizes == {"vad": halves, "diarize": halves}
    assert codes_of(transcript) == [("batch_reduced", "vad"), ("batch_reduced", "diarize")]
    assert transcript.speakers == ["SPEAKER_00", "SPEAKER_01"]


def test_out_of_memory_at_batch_one_is_raised(
    pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr(WhisperDecoder, "decode", failing("CUDA failed with error out of memory"))
    with pytest.raises(OutOfMemory, match="batch size 1"):
        transcribe(pipeline, "oom", greeting, options())


@pytest.fixture
def as_if_cuda(stages: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the pipeline believe that it runs on CUDA, and return the compute types that Whisper is loaded with."""
    from daemon.pipeline.asr.engine import Engine
    from daemon.pipeline.asr.whisper_models import WhisperModels

    load = WhisperModels._load
    types: list[str] = []

    def load_on_cpu(self: WhisperModels, source: str, compute_type: str) -> Any:
        types.append(compute_type)
        return load(self, source, "int8")

    cpu = replace(stages.device, compute_type="float16")
    monkeypatch.setattr(WhisperModels, "_load", load_on_cpu)
    monkeypatch.setattr(stages, "device", replace(cpu, type="cuda"))
    monkeypatch.setattr(stages, "engine", Engine(WhisperModels((str(whisper_tiny_en()),), 1, cpu, None), cpu))
    return types


def test_model_is_loaded_with_less_precision_when_not_one_chunk_fits(
    pipeline: WhisperXPipeline, two_chunks: np.ndarray, as_if_cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    decode = WhisperDecoder.decode
    short = True

    def needs_memory(self: WhisperDecoder, *arguments: Any) -> Any:
        if short and len(as_if_cuda) == 1:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(self, *arguments)

    monkeypatch.setattr(WhisperDecoder, "decode", needs_memory)
    transcript = transcribe(pipeline, "smaller", two_chunks, options(diarize=False))
    assert codes_of(transcript) == [("batch_reduced", "asr"), ("compute_type_reduced", "asr")]
    assert as_if_cuda == ["float16", "int8_float16"]
    assert transcript.models.compute_type == "int8_float16"
    assert transcript.segments[-1].end > 50

    short = False  # and the next job has the usual model again
    transcript = transcribe(pipeline, "usual", two_chunks, options(diarize=False))
    assert as_if_cuda == ["float16", "int8_float16", "float16"]
    assert transcript.warnings == []
    assert transcript.models.compute_type == "float16"


def test_precision_is_reduced_only_once(
    pipeline: WhisperXPipeline, greeting: np.ndarray, as_if_cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr(WhisperDecoder, "decode", failing("CUDA failed with error out of memory"))
    with pytest.raises(OutOfMemory, match="batch size 1"):
        transcribe(pipeline, "oom", greeting, options())
    assert as_if_cuda == ["float16", "int8_float16"]


@pytest.mark.parametrize("stage", STAGES)
def test_cuda_error_is_a_device_fault_in_every_stage(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    where = {
        "vad": (stages.detector, "detect"),
        "asr": (WhisperDecoder, "decode"),
        "align": (WhisperDecoder, "align"),
        "diarize": (stages.diarizer, "diarize"),
    }
    monkeypatch.setattr(*where[stage], failing("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceFault, match="illegal memory access"):
        transcribe(pipeline, "fault", greeting, options())


@pytest.mark.parametrize("stage", ["vad", "asr"])
def test_basic_mode_when_vad_or_batches_fail(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    target, name = (stages.detector, "detect") if stage == "vad" else (WhisperDecoder, "decode")
    monkeypatch.setattr(target, name, failing("a bug", ValueError))
    transcript = transcribe(pipeline, "basic", greeting, options())
    assert codes_of(transcript) == [("transcription_basic_mode", stage)]
    assert "a bug" in transcript.warnings[0].message
    assert "New Jersey" in text_of(transcript) or "didn't know" in text_of(transcript)
    assert all(segment.words and segment.speaker for segment in transcript.segments)


def test_basic_mode_is_tried_once(
    pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr(WhisperDecoder, "decode", failing("a bug", ValueError))
    monkeypatch.setattr(WhisperDecoder, "decode_plainly", failing("the same bug", ValueError))
    with pytest.raises(ValueError, match="the same bug"):
        transcribe(pipeline, "basic", greeting, options())


def test_words_are_estimated_when_attention_fails(
    pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr(WhisperDecoder, "align", failing("a bug", ValueError))
    transcript = transcribe(pipeline, "estimated", greeting, options())
    assert codes_of(transcript) == [("alignment_fallback", "align")]
    words = [word for segment in transcript.segments for word in segment.words]
    assert " ".join(word.word for word in words) == text_of(transcript)
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(word.score is None for word in words)


def test_transcript_without_speakers_when_diarization_fails(
    stages: Any, pipeline: WhisperXPipeline, greeting: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.diarizer, "diarize", failing("a bug", ValueError))
    transcript = transcribe(pipeline, "nobody", greeting, options())
    assert codes_of(transcript) == [("diarization_failed", "diarize")]
    assert transcript.segments
    assert transcript.speakers == []
    assert transcript.models.diarization is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("batch_size (32) is probably too large."), "out_of_memory"),
        (RuntimeError("CUDA failed with error out of memory"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (RuntimeError("cuDNN failed with status CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"), "device"),
        (RuntimeError("CUDA failed with error unspecified launch failure"), "device"),
        (RuntimeError("shape mismatch"), "other"),
        (ValueError("cuda is not a language"), "other"),
        (KeyError("words"), "other"),
    ],
)
def test_failures_are_classified(error: Exception, expected: str) -> None:
    from daemon.pipeline.runtime.device import classify

    assert classify(error) == expected


# --- models -------------------------------------------------------------------------------------------------------


def test_least_recently_used_whisper_model_is_unloaded(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.asr.whisper_models import WhisperModels

    loads: list[str] = []

    def load(_: WhisperModels, source: str, __: str) -> Any:
        loads.append(source)
        return Mock()

    monkeypatch.setattr(WhisperModels, "_load", load)
    models = WhisperModels(("/models/base", "org/faster-whisper-small", "tiny"), 2, stages.device, None)
    for name in ("base", "small", "base", "tiny", "base", "small"):
        with models.borrowed(name):
            pass
    assert loads == ["/models/base", "org/faster-whisper-small", "tiny", "org/faster-whisper-small"]


def test_a_model_that_is_used_stays_in_memory(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes use models at the same time, so none may be unloaded while another uses it."""
    from daemon.pipeline.asr.whisper_models import WhisperModels

    loads: list[str] = []

    def load(_: WhisperModels, source: str, __: str) -> Any:
        loads.append(source)
        return Mock()

    def use(name: str) -> Any:
        with models.borrowed(name) as model:
            return model

    monkeypatch.setattr(WhisperModels, "_load", load)
    models = WhisperModels(("base", "small", "tiny"), 2, stages.device, None)
    with ThreadPoolExecutor(2) as pool, models.borrowed("base") as base:
        small = use("small")
        tiny = pool.submit(use, "tiny").result(PATIENCE_SECONDS)  # instead of the unused one
        small.model.unload_model.assert_called_once_with()
        with models.borrowed("tiny"):
            waiting = pool.submit(use, "small")
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            base.model.unload_model.assert_not_called()
            tiny.model.unload_model.assert_not_called()
        waiting.result(PATIENCE_SECONDS)
        tiny.model.unload_model.assert_called_once_with()
    models.unload_all()
    base.model.unload_model.assert_called_once_with()
    assert loads == ["base", "small", "tiny", "small"]


def test_folder_without_a_model_is_named(stages: Any, tmp_path: Path) -> None:
    from daemon.pipeline.asr.whisper_models import WhisperModels
    from daemon.pipeline.diarization.diarizer import Diarizer

    models = WhisperModels((str(tmp_path),), 2, stages.device, None)
    with pytest.raises(ModelUnavailable, match=r"model\.bin"), models.borrowed(tmp_path.name):
        pass
    with pytest.raises(ModelUnavailable, match=r"config\.yaml"):
        Diarizer(str(tmp_path), None, stages.device, stages.lanes, None)


@pytest.mark.parametrize(("token", "advice"), [(None, "HF_TOKEN is not set"), ("hf_x", "accept the conditions")])
def test_gated_pipeline_is_reported_with_a_hint(
    stages: Any, monkeypatch: pytest.MonkeyPatch, token: str | None, advice: str
) -> None:
    from daemon.pipeline.diarization import diarizer as diarization

    monkeypatch.setattr("daemon.pipeline.diarization.diarizer.Pipeline.from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr("daemon.weights.verified.VerifiedWeights.diarization", lambda *_: None)
    with pytest.raises(ModelUnavailable, match=advice) as caught:
        diarization.Diarizer(HUB_DIARIZATION, None, stages.device, stages.lanes, token)
    assert "TRANSCRIPTD_DIARIZATION_MODEL=embedded" in str(caught.value)
    assert "hf_x" not in str(caught.value)


def test_requested_cuda_without_a_gpu_is_a_failed_setup() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SetupFailed, match="nvidia-smi"):
        WhisperXPipeline(settings(device="cuda")).load()


def test_settings_are_sent_to_the_runner_with_its_setup(make_settings: Callable[..., Settings]) -> None:
    given = make_settings(alignment_models="en=/models/a,de=b", hf_token="hf_secret", cpu_threads=7)
    sent = runner_settings(given, Device("cpu:1", "cpu", 3))
    setup = Setup("module:Class", sent, "INFO", 1, [], False)
    assert decode(encode(setup)) == setup
    assert "hf_secret" not in repr(setup)
    assert sent.alignment_models == ("en=/models/a", "de=b")
    assert sent.hf_token == "hf_secret"
    assert (sent.device, sent.cpu_threads) == ("cpu", 3), "the share of one device on a machine with several"
