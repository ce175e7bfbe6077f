"""Merge separately transcribed channels into one transcript."""

from daemon.outputs import markdown
from daemon.pipeline.job.channels import ChannelReporter
from daemon.pipeline.job.channels import merge as merge_channels
from daemon.protocol.events import Progress, StageDone
from daemon.schema.transcript import (
    NO_SPEECH_FOUND,
    SCHEMA_VERSION,
    Models,
    Segment,
    Transcript,
    TranscriptWarning,
    Word,
)
from tests.support.pipeline import Recorder

MODELS = Models(asr="base", vad="pyannote", alignment=None, diarization=None, device="cuda", compute_type="float16")


def segment(start: float, end: float, text: str) -> Segment:
    words = [Word(word=word, start=start, end=end, score=None, speaker=None, overlap=None) for word in text.split()]
    return Segment(
        start=start,
        end=end,
        text=text,
        speaker=None,
        avg_logprob=-0.1,
        words=words,
        overlap=None,
        confidence=None,
        language="en",
    )


def part(*segments: Segment, language: str | None = "en", **changes: object) -> Transcript:
    """Return the transcript of one channel of a 60 s call."""
    whole = Transcript(
        schema_version=SCHEMA_VERSION,
        job_id="call",
        task="transcribe",
        language=language,
        language_probability=0.9,
        start_seconds=0,
        duration_seconds=60,
        speakers=[],
        segments=list(segments),
        models=MODELS,
        timings_seconds={"vad": 1.0, "asr": 2.0},
        redactions={},
        warnings=[],
        speaker_embeddings=None,
        language_probabilities={},
    )
    return whole.model_copy(update=changes)


def merge(parts: list[Transcript]) -> Transcript:
    return merge_channels(parts, MODELS.compute_type)


def test_segments_are_ordered_by_start_and_labelled_with_their_channel() -> None:
    left = part(segment(0, 4, "how are you"), segment(9, 10, "bye"))
    right = part(segment(3, 5, "fine"), segment(9, 11, "see you"))
    merged = merge([left, right])
    assert [(each.start, each.speaker, each.text) for each in merged.segments] == [
        (0, "CHANNEL_00", "how are you"),
        (3, "CHANNEL_01", "fine"),
        (9, "CHANNEL_00", "bye"),
        (9, "CHANNEL_01", "see you"),
    ]
    assert all(word.speaker == each.speaker for each in merged.segments for word in each.words)
    assert merged.speakers == ["CHANNEL_00", "CHANNEL_01"]
    assert Transcript.model_validate_json(merged.model_dump_json()) == merged


def test_speakers_are_in_order_of_appearance_without_silent_channels() -> None:
    merged = merge([part(segment(5, 6, "yes")), part(), part(segment(1, 2, "hello"))])
    assert merged.speakers == ["CHANNEL_02", "CHANNEL_00"]


def test_one_channel_alone() -> None:
    merged = merge([part(segment(0, 1, "hello"))])
    assert merged.speakers == ["CHANNEL_00"]
    assert merged.timings_seconds == {"vad": 1, "asr": 2}


def test_no_speech() -> None:
    merged = merge([part(language=None), part(language=None)])
    assert (merged.segments, merged.speakers, merged.language) == ([], [], None)


def test_language_is_that_of_the_most_speech() -> None:
    short = part(segment(0, 1, "ja"), segment(5, 6, "ja"), language="de", language_probability=0.5)
    merged = merge([short, part(segment(0, 9, "a long story"), language="en"), part(language=None)])
    assert (merged.language, merged.language_probability) == ("en", 0.9)


def test_timings_add_up_and_warnings_are_deduplicated() -> None:
    twice = TranscriptWarning(code="alignment_fallback", stage="align", message="no model for de")
    once = TranscriptWarning(code="alignment_fallback", stage="align", message="no model for fr")
    merged = merge(
        [
            part(warnings=[twice]),
            part(warnings=[twice, once], timings_seconds={"vad": 0.5, "asr": 1.0, "align": 0.25}),
        ]
    )
    assert merged.warnings == [twice, once]
    assert merged.timings_seconds == {"vad": 1.5, "asr": 3.0, "align": 0.25}
    assert list(merged.timings_seconds) == ["vad", "asr", "align"]


def test_channel_without_words_is_worth_a_warning_only_if_no_channel_has_any() -> None:
    silent = part(warnings=[TranscriptWarning(code=NO_SPEECH_FOUND, stage="vad", message="it is digital silence")])
    assert merge([silent, part(segment(0, 1, "hello"))]).warnings == []
    assert merge([silent, silent]).warnings == silent.warnings


def test_models_are_those_of_all_channels() -> None:
    usual = MODELS.model_copy(update={"alignment": "wav2vec2-en"})
    reduced = MODELS.model_copy(update={"alignment": "attention", "compute_type": "int8_float16"})
    models = merge([part(), part(models=usual), part(models=reduced), part(models=usual)]).models
    assert (models.alignment, models.compute_type) == ("wav2vec2-en,attention", "int8_float16")
    assert merge([part(), part()]).models == MODELS


def test_progress_covers_all_channels_and_stages_end_once() -> None:
    whole = Recorder()
    for index in range(3):
        channel = ChannelReporter(whole, index, 3)
        for fraction in (0.5, 1.0):
            channel.emit(Progress("asr", fraction))
        channel.emit(StageDone("asr", 1.0))
    fractions = [fraction for _, fraction in whole.fractions]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.2
    assert fractions[-1] == 1
    assert whole.done == {}


def test_markdown_labels_channels_as_speakers() -> None:
    text = markdown.render(merge([part(segment(0, 4, "how are you")), part(segment(3, 5, "fine"))]))
    assert "**CHANNEL_00:** how are you\n\n**CHANNEL_01:** fine" in text
    assert "## Segment 2: [00:00:03 - 00:00:05] (CHANNEL_01)" in text
