"""Runs an accepted job: download, decode, transcribe. Independent of the queue; its errors determine the outcome."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from daemon.aws.s3 import Storage
from daemon.config import Settings
from daemon.errors import MediaUnreadable, TranscriptdError
from daemon.jobs.delivery import Accepted, LiveDelivery, Transcribed
from daemon.jobs.earlier_result import EarlierResult, find_earlier
from daemon.jobs.fingerprint import checkpoint_fingerprint
from daemon.jobs.result_store import ResultStore
from daemon.jobs.runner_events import RunnerEvents
from daemon.jobs.scratch import job_directory
from daemon.jobs.stages import record_stage, timed_stage
from daemon.media.clip import Clip
from daemon.media.decoder_pool import MEDIA_INCOMPLETE, Audio, DecodeLimits, DecoderPool
from daemon.privacy import protect
from daemon.runner_pool import Runners
from daemon.schema.job import Job
from daemon.schema.manifest import InputObject
from daemon.schema.transcript import NO_SPEECH_FOUND, Transcript, TranscriptWarning
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.transcription")

# Time for checkpoint uploads in progress when the work ends early.
CHECKPOINT_GRACE_SECONDS = 5.0

ProgressHandler = Callable[[], None]  # the delivery has progressed


class Transcriber:
    """Turns an accepted job into a transcript."""

    def __init__(
        self,
        settings: Settings,
        *,
        storage: Storage,
        decoder: DecoderPool,
        results: ResultStore,
        runners: Runners,
        metrics: Metrics,
        scratch: Path,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._decoder = decoder
        self._results = results
        self._runners = runners
        self._metrics = metrics
        self._scratch = scratch
        self._decode_limits = DecodeLimits(
            max_media_seconds=settings.max_media_seconds,
            timeout_seconds=settings.decode_timeout_seconds,
            memory_bytes=settings.decode_memory_bytes,
        )

    async def transcribe(self, accepted: Accepted, delivery: LiveDelivery, on_progress: ProgressHandler) -> Transcribed:
        if accepted.job.options.words_of is None:
            return await self._transcribe(accepted, delivery, on_progress, None)
        earlier = await find_earlier(self._storage, self._results, accepted.job)
        accepted = replace(accepted, job=earlier.job)
        if earlier.job.options.diarize:
            return await self._transcribe(accepted, delivery, on_progress, earlier)
        delivery.estimate.update(0.0)  # it uses no device
        found = await self._storage.describe(earlier.job.input)
        earlier.require_same_recording(found)
        transcript = await asyncio.to_thread(self._protect, earlier.with_its_speakers(), earlier.job)
        return Transcribed(accepted, found, 0.0, transcript, earlier.transcript)

    async def _transcribe(
        self, accepted: Accepted, delivery: LiveDelivery, on_progress: ProgressHandler, earlier: EarlierResult | None
    ) -> Transcribed:
        job = accepted.job
        with job_directory(self._scratch) as directory:
            source, pcm, result = directory / "input", directory / "audio.f32", directory / "result.json"
            with delivery.span.child("stage in") as staging:
                with timed_stage(delivery, "download", staging, self._metrics):
                    found = await self._storage.fetch(job.input, source)
                if earlier is not None:
                    earlier.require_same_recording(found)
                delivery.input_bytes = found.size_bytes
                self._metrics.input_bytes.observe(found.size_bytes)
                with timed_stage(delivery, "decode", staging, self._metrics):
                    audio = await self._decoder.decode(
                        source,
                        pcm,
                        self._decode_limits,
                        audio_track=job.options.audio_track,
                        split=job.options.channels == "split",
                        clip=Clip(job.options.clip_start_seconds, job.options.clip_end_seconds),
                    )
            self._require_whole(audio)
            delivery.progress.audio_seconds = audio.duration_seconds
            source.unlink()
            words = None
            if earlier is not None:
                words = directory / "words.json"
                await asyncio.to_thread(earlier.write, words)
            await self._run(job, delivery, found, on_progress, directory, audio, result, words)
            # A long transcript is megabytes of JSON; parsing it here would delay heartbeats.
            transcript = await asyncio.to_thread(self._read, result, job, audio, earlier)
        return Transcribed(
            accepted, found, audio.duration_seconds, transcript, None if earlier is None else earlier.transcript
        )

    def _require_whole(self, audio: Audio) -> None:
        """Raise MediaUnreadable if a part of the recording could not be read and the settings forbid that."""
        if self._settings.incomplete_media == "fail":
            for warning in audio.warnings:
                if warning.code == MEDIA_INCOMPLETE:
                    raise MediaUnreadable(f"a part of the recording cannot be read: {warning.message}")

    def _read(self, result: Path, job: Job, audio: Audio, earlier: EarlierResult | None) -> Transcript:
        """Read the runner's result, with redaction and masking applied, and with the times of the recording.

        No later step sees the original.
        The decoder's warnings come first: they concern everything else.
        """
        transcript = Transcript.model_validate_json(result.read_bytes())
        if earlier is not None:
            earlier.require_same_words(transcript)
            known = list(dict.fromkeys([*audio.warnings, *transcript.warnings]))
            return self._protect(transcript.model_copy(update={"warnings": known}), job)
        if start_seconds := job.options.clip_start_seconds:
            transcript = transcript.moved(start_seconds)
        own = [_with_tracks(warning, audio.tracks) for warning in transcript.warnings]
        transcript = transcript.model_copy(update={"warnings": [*audio.warnings, *own]})
        return self._protect(transcript, job)

    def _protect(self, transcript: Transcript, job: Job) -> Transcript:
        unwanted = self._settings.profanity_words if job.options.profanity == "mask" else ()
        return protect(transcript, job.options.redact, unwanted) if job.options.redact or unwanted else transcript

    async def _run(
        self,
        job: Job,
        delivery: LiveDelivery,
        found: InputObject,
        on_progress: ProgressHandler,
        directory: Path,
        audio: Audio,
        result: Path,
        words: Path | None,
    ) -> None:
        """Run the job on a runner: continue from the checkpoints of earlier deliveries, and store new ones."""
        checkpoints = directory / "checkpoints"
        checkpoints.mkdir()
        fingerprint = checkpoint_fingerprint(self._runners.fingerprint, found, job.options)
        if delivery.resumed:
            await self._restore(job, delivery, fingerprint, checkpoints)
        kept: set[asyncio.Task[None]] = set()
        audio_seconds = audio.duration_seconds * len(audio.paths)
        delivery.estimate.staged(audio_seconds)
        submitted_at = time.monotonic()
        keep_from = submitted_at + self._settings.checkpoint_after_seconds
        delivery.timings_seconds["wait"] = 0.0  # reserves its position; the value is set at the end

        def keep(name: str) -> None:
            kept.add(asyncio.create_task(self._keep(job, delivery, fingerprint, checkpoints / name, keep_from)))

        events = RunnerEvents(
            self._metrics,
            delivery.span,
            delivery.progress,
            delivery.estimate,
            on_progress=on_progress,
            on_stage_done=lambda stage, seconds: record_stage(delivery, stage, seconds, self._metrics),
            on_checkpoint=keep,
        )
        try:
            await self._runners.run(
                job.job_id,
                job.options,
                events,
                audio=audio.paths,
                audio_seconds=audio_seconds,
                result=result,
                checkpoints=checkpoints,
                words=words,
                priority=delivery.estimate.priority,
            )
            delivery.estimate.update(0.0)
        except Exception as error:
            events.failed(error)
            raise
        finally:
            delivery.runner_seconds = time.monotonic() - submitted_at
            # The stages' times exclude the time in which other jobs used the models; it counts as waiting.
            record_stage(delivery, "wait", max(0.0, delivery.runner_seconds - delivery.work_seconds), self._metrics)
            if time.monotonic() < keep_from:
                for task in kept:
                    task.cancel()
            if kept:
                await asyncio.wait(kept, timeout=CHECKPOINT_GRACE_SECONDS)

    async def _restore(self, job: Job, delivery: LiveDelivery, fingerprint: str, folder: Path) -> None:
        try:
            restored = await self._results.restore_checkpoints(job, fingerprint, folder)
            self._metrics.checkpoints.labels("restored").inc(restored)
            delivery.checkpoints["restored"] += restored
            log.info("checkpoints restored", extra={"checkpoints_restored": restored})
        except TranscriptdError as error:  # the work is repeated
            log.warning("checkpoints not restored", extra={"error": safe_message(error)})

    async def _keep(self, job: Job, delivery: LiveDelivery, fingerprint: str, file: Path, keep_from: float) -> None:
        """Upload a checkpoint at the time `keep_from`. A job that finishes earlier needs no checkpoints."""
        await asyncio.sleep(keep_from - time.monotonic())
        result = "kept"
        delivery.checkpoint_parts.append(f"{fingerprint}/{file.name}")
        try:
            await self._results.keep_checkpoint(job, fingerprint, file)
        except TranscriptdError as error:  # a lost checkpoint only costs time; the summary counts them
            result = "failed"
            log.debug("checkpoint not kept", extra={"checkpoint": file.name, "error": safe_message(error)})
        self._metrics.checkpoints.labels(result).inc()
        delivery.checkpoints[result] += 1


def _with_tracks(warning: TranscriptWarning, tracks: int) -> TranscriptWarning:
    """Add to the warning about a transcript without words that the file has other audio streams."""
    if warning.code != NO_SPEECH_FOUND or tracks == 1:
        return warning
    hint = f"the file has {tracks} audio streams: set options.audio_track, from 0 to {tracks - 1}, to try another one"
    return warning.model_copy(update={"message": f"{warning.message}; {hint}"})
