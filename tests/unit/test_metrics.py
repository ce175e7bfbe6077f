"""Metrics that alert rules can rely on: initialised to zero, bounded labels, names that follow Prometheus'
conventions."""

import re

import pytest

from daemon.config import Settings
from daemon.errors import ConfigError, TranscriptdError, all_errors
from daemon.jobs.disposition import choose_disposition
from daemon.schema.job_status import STAGE_NAMES
from daemon.schema.transcript import SCHEMA_VERSION, Models, Segment, Transcript
from daemon.telemetry.metrics import Metrics
from tests.support.builders import some_settings
from tests.support.monitoring.samples import samples_of

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_timestamp_seconds", "_info", "_total")
WITHOUT_UNIT = {  # counts, and values without a base unit
    "transcriptd_queue_messages",
    "transcriptd_jobs_in_flight",
    "transcriptd_tenant_jobs_in_flight",
    "transcriptd_receive_capacity",
    "transcriptd_brake_engaged",
    "transcriptd_decoder_sandbox_layer",
    "transcriptd_jobs_waiting",
    "transcriptd_message_receive_count",
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
def test_every_outcome_of_an_error_starts_at_zero(error: type[TranscriptdError], attempt: int) -> None:
    """Without the zero, `rate()` would miss the first failure of a kind."""
    settings: Settings = some_settings()
    outcome = choose_disposition(error("x"), attempt, attempt, settings).outcome
    found = samples_of(Metrics())
    assert found[f'transcriptd_deliveries_total{{outcome="{outcome}",reason="{error.code}"}}'] == 0
    assert found[f'transcriptd_outcome_call_failures_total{{outcome="{outcome}"}}'] == 0
    assert found[f'transcriptd_job_duration_seconds_count{{outcome="{outcome}"}}'] == 0


def test_every_stage_starts_at_zero() -> None:
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


def test_log_probability_is_weighted_by_length() -> None:
    assert transcript([(0, 3, -0.2), (3, 4, -1.0)]).avg_logprob == pytest.approx(-0.4)
    assert transcript([(0, 3, -0.2), (3, 4, None)]).avg_logprob == pytest.approx(-0.2)
    assert transcript([(1, 1, -0.5)]).avg_logprob == pytest.approx(-0.5), "a segment of zero length still counts"
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
        start_seconds=0,
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
