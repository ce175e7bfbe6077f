"""Metrics that a rule can trust: born at zero, bounded labels, names as Prometheus wants them."""

import re

import pytest

from daemon.config import Settings
from daemon.disposition import disposition_of
from daemon.errors import ConfigError, TranscriptdError, all_errors
from daemon.metrics import Metrics
from daemon.status_page import STAGE_NAMES
from daemon.transcript import SCHEMA_VERSION, Models, Segment, Transcript
from tests.conftest import settings_with
from tests.samples import samples_of

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_timestamp_seconds", "_info", "_total")
WITHOUT_UNIT = {  # counts of things, and what has no base unit
    "transcriptd_queue_messages",
    "transcriptd_jobs_in_flight",
    "transcriptd_jobs_in_flight_room",
    "transcriptd_jobs_waiting",
    "transcriptd_message_receives",
    "transcriptd_real_time_factor",
    "transcriptd_runner_state",
    "transcriptd_transcript_avg_logprob",
    "transcriptd_instance_price_per_hour",
}


def test_names_have_base_units() -> None:
    for family in Metrics().registry.collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        assert re.fullmatch(r"(transcriptd|process)_[a-z_]+", name)
        if name.startswith("transcriptd_"):
            assert name.endswith(BASE_UNITS) or name in WITHOUT_UNIT, name


@pytest.mark.parametrize("error", [error for error in all_errors() if error is not ConfigError])
@pytest.mark.parametrize("attempt", [1, 99])
def test_every_outcome_of_an_error_begins_at_zero(error: type[TranscriptdError], attempt: int) -> None:
    """Else the first failure of a kind is none to `rate()`."""
    settings: Settings = settings_with()
    outcome = disposition_of(error("x"), attempt, attempt, settings).outcome
    found = samples_of(Metrics())
    assert found[f'transcriptd_jobs_total{{outcome="{outcome}",reason="{error.code}"}}'] == 0
    assert found[f'transcriptd_settle_failures_total{{outcome="{outcome}"}}'] == 0
    assert found[f'transcriptd_job_duration_seconds_count{{outcome="{outcome}"}}'] == 0


def test_every_stage_begins_at_zero() -> None:
    found = samples_of(Metrics())
    begun = {name for name in found if name.startswith("transcriptd_stage_duration_seconds_count")}
    assert begun == {
        f'transcriptd_stage_duration_seconds_count{{stage="{stage}"}}'
        for stage in STAGE_NAMES.keys() - {"check", "settle"}
    }


@pytest.mark.parametrize(("language", "label"), [("de", "de"), (None, "none"), ("tlh", "other"), ("job-7f3a", "other")])
def test_languages_are_a_bounded_set(language: str | None, label: str) -> None:
    metrics = Metrics()
    metrics.observe_published(language, None)
    assert samples_of(metrics)[f'transcriptd_transcripts_total{{language="{label}"}}'] == 1
    assert samples_of(metrics)["transcriptd_transcript_avg_logprob_count"] == 0


def test_the_log_probability_is_weighted_by_length() -> None:
    assert transcript([(0, 3, -0.2), (3, 4, -1.0)]).avg_logprob == pytest.approx(-0.4)
    assert transcript([(0, 3, -0.2), (3, 4, None)]).avg_logprob == pytest.approx(-0.2)
    assert transcript([(1, 1, -0.5)]).avg_logprob == pytest.approx(-0.5), "a segment without length counts all the same"
    assert transcript([(0, 3, None)]).avg_logprob is None
    assert transcript([]).avg_logprob is None


def transcript(segments: list[tuple[float, float, float | None]]) -> Transcript:
    return Transcript(
        schema_version=SCHEMA_VERSION,
        job_id="job",
        task="transcribe",
        language="en",
        language_probability=None,
        language_probabilities={},
        duration_seconds=10,
        speakers=[],
        speaker_embeddings=None,
        segments=[
            Segment(
                start=start,
                end=end,
                text="x",
                speaker=None,
                language="en",
                overlap=None,
                confidence=None,
                avg_logprob=mean,
                words=[],
            )
            for start, end, mean in segments
        ],
        models=Models(asr="a", vad="v", alignment=None, diarization=None, device="cpu", compute_type="int8"),
        timings_seconds={},
        redactions={},
        warnings=[],
    )
