"""The work on one valid job: stage in, run, stage out. Knows nothing of queues; its errors say what becomes of the job."""

import asyncio
import datetime
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

from daemon.config import Settings
from daemon.crashpoints import crash_point
from daemon.delivery import Delivery
from daemon.errors import TranscriptdError
from daemon.job import Job
from daemon.manifest import InputObject, Manifest, StoredOutput
from daemon.media import Audio, DecodeLimits, Decoder
from daemon.metrics import Metrics
from daemon.outputs import Presentation, render
from daemon.pipeline.checkpoints import CHECKPOINT_VERSION
from daemon.privacy import protect
from daemon.protocol import Batch, Checkpoint, Heard, Progress, StageDone
from daemon.results import Results
from daemon.runners import Runners
from daemon.scratch import job_directory
from daemon.spans import Span
from daemon.storage import Storage
from daemon.transcript import Transcript
from daemon.wording import words_of

log = logging.getLogger("transcriptd.transcription")

# Time for checkpoints that are on their way when the work ends early.
CHECKPOINT_GRACE_SECONDS = 5.0

# What may change a transcript besides the job's own options.
SETTINGS_OF_A_TRANSCRIPT = ("model", "compute_type", "diarization_model", "alignment_models", "short_context_models")
LIBRARIES_OF_A_TRANSCRIPT = ("whisperx", "faster-whisper", "ctranslate2", "pyannote.audio", "torch", "av")

ProgressHandler = Callable[[str, float], None]


class Transcriber:
    """Turns a job into a published result."""

    def __init__(
        self,
        settings: Settings,
        *,
        storage: Storage,
        decoder: Decoder,
        results: Results,
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

    async def transcribe(self, job: Job, delivery: Delivery, on_progress: ProgressHandler) -> bool:
        """Publish the job's result; False when another delivery was faster. The delivery's manifest is set."""
        with job_directory(self._scratch) as directory:
            source, pcm, result = directory / "input", directory / "audio.f32", directory / "result.json"
            with delivery.span.child("stage in") as staging:
                with self._stage(delivery, "download", staging):
                    found = await self._storage.fetch(job.input, source)
                delivery.input_bytes = found.size_bytes
                self._metrics.input_bytes.observe(found.size_bytes)
                crash_point("downloaded", job.job_id, delivery.message.receive_count)
                with self._stage(delivery, "decode", staging):
                    audio = await self._decoder.decode(
                        source,
                        pcm,
                        self._decode_limits,
                        audio_track=job.options.audio_track,
                        split=job.options.channels == "split",
                    )
            delivery.course.audio_seconds = audio.duration_seconds
            source.unlink()
            crash_point("decoded", job.job_id, delivery.message.receive_count)
            await self._run(job, delivery, found, on_progress, directory, audio, result)
            crash_point("transcribed", job.job_id, delivery.message.receive_count)
            # A long transcript is megabytes of JSON: parsing and rendering it must not hold up a heartbeat.
            transcript = await asyncio.to_thread(self._read, result, job)
        with self._stage(delivery, "publish", delivery.span):
            wanted = Presentation(job.options.subtitles, job.options.audio_url)
            files = await asyncio.to_thread(render, transcript, job.options.formats, wanted)
            delivery.manifest, ours = await self._results.publish(
                job,
                files,
                lambda stored: self._manifest(job, delivery, found, transcript, stored),
                delivery.proceed,
            )
        crash_point("published", job.job_id, delivery.message.receive_count)
        if ours:
            self._metrics.observe_published(transcript.language, transcript.avg_logprob)
            self._metrics.audio_seconds.inc(audio.duration_seconds)
            if audio.duration_seconds > 0:
                factor = sum(transcript.timings_seconds.values()) / audio.duration_seconds
                self._metrics.real_time_factor.observe(factor, delivery.span.exemplar)
            for warning in transcript.warnings:
                self._metrics.warnings.labels(warning.code).inc()
            for kind, count in transcript.redactions.items():
                self._metrics.redactions.labels(kind).inc(count)
        return ours

    def _read(self, result: Path, job: Job) -> Transcript:
        """The runner's result, without what the job wants taken out: nothing after this sees it."""
        transcript = Transcript.model_validate_json(result.read_bytes())
        unwanted = self._settings.profanity_words if job.options.profanity == "mask" else ()
        return protect(transcript, job.options.redact, unwanted) if job.options.redact or unwanted else transcript

    async def _run(
        self,
        job: Job,
        delivery: Delivery,
        found: InputObject,
        on_progress: ProgressHandler,
        directory: Path,
        audio: Audio,
        result: Path,
    ) -> None:
        """Let a runner do the job, from the checkpoints of earlier deliveries, keeping those that it makes."""
        checkpoints = directory / "checkpoints"
        checkpoints.mkdir()
        fingerprint = self._fingerprint(job, found)
        if delivery.history and delivery.history.deliveries:
            await self._restore(job, delivery, fingerprint, checkpoints)
        kept: set[asyncio.Task[None]] = set()
        audio_seconds = audio.duration_seconds * len(audio.paths)
        delivery.load.staged(audio_seconds)
        submitted_at = entered_at = time.monotonic()
        keep_from = submitted_at + self._settings.checkpoint_after_seconds
        delivery.course.enter("wait")
        delivery.timings_seconds["wait"] = 0.0  # its place among the stages; how long it was shows at the end

        def handle(event: Progress | StageDone | Batch | Heard | Checkpoint) -> None:
            nonlocal entered_at
            if isinstance(event, Progress | StageDone) and event.stage != delivery.course.stage:
                if delivery.course.stage == "wait":
                    delivery.span.ended("wait", time.monotonic() - submitted_at)
                entered_at = time.monotonic()
            match event:
                case Progress(_, stage, fraction):
                    delivery.course.report(stage, fraction, time.monotonic())
                    delivery.load.progress(delivery.course.left_share)
                    log.debug("progress", extra={"stage": stage, "fraction": fraction})
                    on_progress(stage, fraction)
                case StageDone(_, stage, seconds):
                    delivery.course.report(stage, 1.0, time.monotonic())
                    # The runner process knows nothing of traces: a span is made of what it reports. Other jobs' shares of
                    # the models are in it, and not in the stage's time.
                    delivery.span.ended(stage, time.monotonic() - entered_at)
                    self._record_stage(delivery, stage, seconds)
                case Batch(_, chunks, room):
                    self._metrics.asr_batch_fill_ratio.observe(chunks / room)
                case Heard(_, chunks, gated, dismissed):
                    for result, count in {
                        "heard": chunks - gated - dismissed,
                        "gated": gated,
                        "dismissed": dismissed,
                    }.items():
                        self._metrics.asr_chunks.labels(result).inc(count)
                case Checkpoint(_, name):
                    kept.add(asyncio.create_task(self._keep(job, delivery, fingerprint, checkpoints / name, keep_from)))

        try:
            await self._runners.run(
                job.job_id,
                job.options,
                handle,
                audio=audio.paths,
                audio_seconds=audio_seconds,
                result=result,
                checkpoints=checkpoints,
            )
            delivery.load.progress(0.0)
        except Exception as error:
            delivery.span.ended(delivery.course.stage, time.monotonic() - entered_at, error=error)
            raise
        finally:
            delivery.runner_seconds = time.monotonic() - submitted_at
            # The runner's stages leave out what other jobs took meanwhile.
            self._record_stage(delivery, "wait", max(0.0, delivery.runner_seconds - delivery.work_seconds))
            if time.monotonic() < keep_from:
                for task in kept:
                    task.cancel()
            if kept:
                await asyncio.wait(kept, timeout=CHECKPOINT_GRACE_SECONDS)

    async def _restore(self, job: Job, delivery: Delivery, fingerprint: str, folder: Path) -> None:
        try:
            restored = await self._results.restore_checkpoints(job, fingerprint, folder)
            self._metrics.checkpoints.labels("restored").inc(restored)
            delivery.checkpoints["restored"] += restored
            log.info("checkpoints restored", extra={"checkpoints_restored": restored})
        except TranscriptdError as error:  # the work is done again
            log.warning("checkpoints not restored", extra={"error": words_of(error)})

    async def _keep(self, job: Job, delivery: Delivery, fingerprint: str, file: Path, keep_from: float) -> None:
        """Store a finished part at that time. A job that is done before needs none, and has its results sooner."""
        await asyncio.sleep(keep_from - time.monotonic())
        result = "kept"
        delivery.checkpoint_parts.append(f"{fingerprint}/{file.name}")
        try:
            await self._results.keep_checkpoint(job, fingerprint, file)
        except TranscriptdError as error:  # a lost checkpoint costs time, not the job; the summary counts them
            result = "failed"
            log.debug("checkpoint not kept", extra={"checkpoint": file.name, "error": words_of(error)})
        self._metrics.checkpoints.labels(result).inc()
        delivery.checkpoints[result] += 1

    def _fingerprint(self, job: Job, found: InputObject) -> str:
        """Checkpoints fit only what has the same: input, options, models, and libraries that computed them."""
        parts = {
            "format": CHECKPOINT_VERSION,
            "input": [found.etag, found.version_id, found.size_bytes],
            "options": job.options.digest(),
            "models": self._runners.info.models if self._runners.info else {},
            "settings": {name: getattr(self._settings, name) for name in SETTINGS_OF_A_TRANSCRIPT},
            "libraries": _library_versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _manifest(
        self, job: Job, delivery: Delivery, found: InputObject, transcript: Transcript, stored: list[StoredOutput]
    ) -> Manifest:
        return Manifest(
            job_id=job.job_id,
            completed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            worker_id=self._settings.worker_id,
            attempt=delivery.attempt,
            input=found,
            options=job.options.model_dump(mode="json"),
            options_digest=job.options.digest(),
            outputs=stored,
            duration_seconds=transcript.duration_seconds,
            language=transcript.language,
            speakers=len(transcript.speakers),
            models=transcript.models,
            timings_seconds={stage: round(seconds, 3) for stage, seconds in delivery.timings_seconds.items()},
            warnings=transcript.warnings,
            redactions=transcript.redactions,
            metadata=job.metadata,
        )

    @contextmanager
    def _stage(self, delivery: Delivery, stage: str, above: Span) -> Iterator[None]:
        started_at = time.monotonic()
        delivery.course.enter(stage)
        with above.child(stage):
            yield
        self._record_stage(delivery, stage, time.monotonic() - started_at)

    def _record_stage(self, delivery: Delivery, stage: str, seconds: float) -> None:
        delivery.timings_seconds[stage] = seconds
        self._metrics.stage_duration_seconds.labels(stage).observe(seconds, delivery.span.exemplar)
        log.debug("stage done", extra={"stage": stage, "seconds": round(seconds, 3)})


@cache
def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES_OF_A_TRANSCRIPT}
