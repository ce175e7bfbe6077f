"""Runs an accepted job: download, decode, transcribe. Independent of the queue; its errors determine the outcome."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from daemon.aws.s3 import Storage
from daemon.config import Settings
from daemon.errors import TranscriptdError
from daemon.jobs.delivery import Accepted, LiveDelivery, Transcribed
from daemon.jobs.earlier_result import EarlierResult, find_earlier
from daemon.jobs.fingerprint import checkpoint_fingerprint
from daemon.jobs.result_store import ResultStore
from daemon.jobs.runner_events import RunnerEvents
from daemon.jobs.scratch import job_directory
from daemon.jobs.stages import record_stage, timed_stage
from daemon.jobs.steps import decode, protected, read_result
from daemon.media.decoder_pool import Audio, DecoderPool
from daemon.runner_pool import Runners
from daemon.schema.job import Job
from daemon.schema.manifest import InputObject
from daemon.schema.transcript import Transcript
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
        transcript = await asyncio.to_thread(
            protected, earlier.with_its_speakers(), earlier.job.options, self._settings
        )
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
                    audio = await decode(self._decoder, source, pcm, job.options, self._settings)
            delivery.progress.audio_seconds = audio.duration_seconds
            source.unlink()
            words = None
            if earlier is not None:
                words = directory / "words.json"
                await asyncio.to_thread(earlier.write, words)
            await self._run(job, delivery, found, on_progress, directory, audio, result, words)
            # A long transcript is megabytes of JSON; parsing it here would delay heartbeats.
            read = self._read if earlier is None else partial(self._read_kept, earlier)
            transcript = await asyncio.to_thread(read, result, job, audio)
        return Transcribed(
            accepted, found, audio.duration_seconds, transcript, None if earlier is None else earlier.transcript
        )

    def _read(self, result: Path, job: Job, audio: Audio) -> Transcript:
        return read_result(result, job.options, audio, self._settings)

    def _read_kept(self, earlier: EarlierResult, result: Path, job: Job, audio: Audio) -> Transcript:
        """Read the runner's result of a job that keeps the words of an earlier one."""
        transcript = Transcript.model_validate_json(result.read_bytes())
        earlier.require_same_words(transcript)
        known = list(dict.fromkeys([*audio.warnings, *transcript.warnings]))
        return protected(transcript.model_copy(update={"warnings": known}), job.options, self._settings)

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
