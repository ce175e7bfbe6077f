"""The work on one job with the real Transcriber: what the decoder and the runner receive."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from daemon.config import Settings
from daemon.errors import MediaUnreadable, RunnerCrashed
from daemon.jobs.delivery import Accepted, Claim, LiveDelivery, Transcribed
from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.lease import Lease
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.transcriber import Transcriber
from daemon.media.clip import Clip
from daemon.media.decoder_pool import MEDIA_INCOMPLETE, Audio, DecodeLimits
from daemon.schema.manifest import InputObject
from daemon.schema.transcript import NO_SPEECH_FOUND, TranscriptWarning
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span
from tests.support.aws.fakes import FakeQueue, received
from tests.support.builders import a_job
from tests.support.transcripts import transcript

MakeSettings = Callable[..., Settings]


class Parts:
    """Storage, decoder and runners that record their inputs. The runner then cancels the job."""

    fingerprint = "a pipeline"

    def __init__(
        self, files: int, warnings: tuple[TranscriptWarning, ...] = (), tracks: int = 1, own: str = "alignment_fallback"
    ) -> None:
        self.files = files
        self.warnings = warnings
        self.tracks = tracks
        self.own = own
        self.decoded: dict[str, Any] = {}
        self.ran: dict[str, Any] = {}

    async def fetch(self, source: Any, target: Path) -> InputObject:
        target.write_bytes(b"sound")  # noqa: ASYNC240
        return InputObject(bucket=source.bucket, key=source.key, version_id=None, etag="e", size_bytes=5)

    async def decode(
        self, source: Path, target: Path, limits: DecodeLimits, *, audio_track: int | None, split: bool, clip: Clip
    ) -> Audio:
        assert source.read_bytes() == b"sound"  # noqa: ASYNC240
        self.decoded = {"limits": limits, "audio_track": audio_track, "split": split, "clip": clip}
        return Audio((target,) * self.files, 60.0, "wav", "pcm_s16le", False, self.tracks, self.warnings)

    async def run(self, job_id: str, options: Any, on_event: Any, **given: Any) -> None:
        self.ran = given
        if self.warnings:
            own = TranscriptWarning(code=self.own, stage="align", message="m")
            given["result"].write_text(transcript(warnings=(own,)).model_dump_json())
            return
        raise RunnerCrashed("enough was seen")


async def attempt(settings: Settings, folder: Path, files: int = 1, **options: Any) -> tuple[Parts, WorkEstimate]:
    """Run a job as far as the runner."""
    parts, estimate = Parts(files), WorkEstimate()
    with pytest.raises(RunnerCrashed):
        await transcribe(settings, folder, parts, estimate, **options)
    return parts, estimate


async def transcribe(
    settings: Settings,
    folder: Path,
    parts: Any,
    estimate: WorkEstimate,
    times: Mapping[str, float] = MappingProxyType({}),
    **options: Any,
) -> Transcribed:
    transcriber = Transcriber(
        settings,
        storage=parts,
        decoder=parts,
        results=SimpleNamespace(),  # type: ignore[arg-type]
        runners=parts,
        metrics=Metrics(),
        scratch=folder,
    )
    message = received()
    claim = Claim(message, Lease(FakeQueue(), message, settings, Metrics()), Span())
    source = {"bucket": "media", "key": "a.wav", **times}
    accepted = Accepted(claim, a_job(settings, input=source, options=options), DeliveryLog())
    return await transcriber.transcribe(accepted, LiveDelivery(claim, estimate), lambda *_: None)


@pytest.mark.parametrize(("options", "channels"), [({}, 1), ({"channels": "split"}, 2), ({"channels": "split"}, 5)])
async def test_each_separately_transcribed_channel_is_its_own_work(
    make_settings: MakeSettings, tmp_path: Path, options: dict[str, Any], channels: int
) -> None:
    parts, estimate = await attempt(make_settings(), tmp_path, channels, **options)
    assert parts.decoded["split"] == ("channels" in options)
    assert parts.ran["audio_seconds"] == channels * 60.0
    assert estimate.audio_seconds == channels * 60.0
    assert len(parts.ran["audio"]) == channels


async def test_decode_limits_come_from_the_settings(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(max_media_seconds=11, decode_timeout_seconds=22, decode_memory_bytes=33)
    parts, _ = await attempt(settings, tmp_path, audio_track=3)
    assert parts.decoded["limits"] == DecodeLimits(max_media_seconds=11, timeout_seconds=22, memory_bytes=33)
    assert parts.decoded["audio_track"] == 3


async def test_no_file_of_a_job_stays_on_disk(make_settings: MakeSettings, tmp_path: Path) -> None:
    await attempt(make_settings(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # noqa: ASYNC240


INCOMPLETE = TranscriptWarning(
    code=MEDIA_INCOMPLETE, stage="decode", message="2.0 s were decoded; the file declares 3.0 s"
)
JUMP = TranscriptWarning(code="timestamps_jump", stage="decode", message="m")


@pytest.mark.parametrize("warnings", [(INCOMPLETE, JUMP), (JUMP,)])
async def test_warnings_of_the_decoder_come_first(
    make_settings: MakeSettings, tmp_path: Path, warnings: tuple[TranscriptWarning, ...]
) -> None:
    done = await transcribe(make_settings(), tmp_path, Parts(1, warnings), WorkEstimate())
    assert tuple(done.transcript.warnings[:-1]) == warnings
    assert done.transcript.warnings[-1].code == "alignment_fallback"


async def test_incomplete_recording_fails_if_the_settings_say_so(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(incomplete_media="fail")
    with pytest.raises(MediaUnreadable, match=r"the file declares 3\.0 s"):
        await transcribe(settings, tmp_path, Parts(1, (JUMP, INCOMPLETE)), WorkEstimate())
    await transcribe(settings, tmp_path, Parts(1, (JUMP,)), WorkEstimate())


@pytest.mark.parametrize(
    ("code", "tracks", "hint"),
    [
        (
            NO_SPEECH_FOUND,
            3,
            "; the file has 3 audio streams: set options.audio_track, from 0 to 2, to try another one",
        ),
        (NO_SPEECH_FOUND, 1, ""),
        ("alignment_fallback", 3, ""),
    ],
)
async def test_recording_without_words_names_its_other_audio_streams(
    make_settings: MakeSettings, tmp_path: Path, code: str, tracks: int, hint: str
) -> None:
    done = await transcribe(make_settings(), tmp_path, Parts(1, (JUMP,), tracks, code), WorkEstimate())
    assert done.transcript.warnings[-1].message == "m" + hint


async def test_times_of_a_clip_are_those_of_the_recording(make_settings: MakeSettings, tmp_path: Path) -> None:
    parts = Parts(1, (JUMP,))
    whole = await transcribe(make_settings(), tmp_path, parts, WorkEstimate())
    assert parts.decoded["clip"] == Clip(0.0, None)
    part = await transcribe(
        make_settings(), tmp_path, parts, WorkEstimate(), {"start_seconds": 100.25, "end_seconds": 160}
    )
    assert parts.decoded["clip"] == Clip(100.25, 160)
    assert (whole.transcript.start_seconds, part.transcript.start_seconds) == (0.0, 100.25)
    for before, after in zip(whole.transcript.segments, part.transcript.segments, strict=True):
        assert (after.start, after.end) == pytest.approx((before.start + 100.25, before.end + 100.25))
        for one, other in zip(before.words, after.words, strict=True):
            assert (other.start, other.end) == pytest.approx((one.start + 100.25, one.end + 100.25))
    assert part.transcript.duration_seconds == whole.transcript.duration_seconds
