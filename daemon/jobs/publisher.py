"""Publish a transcript: write the outputs, then the manifest, which finishes the job."""

import asyncio
import datetime
from collections.abc import Callable, Mapping

from daemon.config import Settings
from daemon.jobs.conflict import require_same_work
from daemon.jobs.delivery import LiveDelivery, Published, Transcribed
from daemon.jobs.result_store import ResultStore
from daemon.jobs.stages import timed_stage
from daemon.outputs import OutputFile, Presentation, render
from daemon.protocol.events import STAGES
from daemon.schema.manifest import Manifest, StoredOutput, Usage
from daemon.schema.transcript import Transcript, TranscriptWarning
from daemon.telemetry.metrics import Metrics


class Publisher:
    """Publishes the transcript of a delivery, unless another delivery published first."""

    def __init__(
        self, settings: Settings, results: ResultStore, metrics: Metrics, devices: Callable[[], int] = lambda: 1
    ) -> None:
        """`devices` returns the number of devices that share the price of the instance."""
        self._worker_id = settings.worker_id
        self._price_per_hour = settings.instance_price_per_hour
        self._devices = devices
        self._results = results
        self._metrics = metrics

    async def publish(self, transcribed: Transcribed, delivery: LiveDelivery) -> Published:
        job = transcribed.accepted.job
        with timed_stage(delivery, "publish", delivery.span, self._metrics):
            manifest, ours = await self._results.publish(
                job,
                await self._render(transcribed),
                lambda stored: self._manifest(transcribed, delivery, stored),
                delivery.claim.lease.require,
            )
        if ours:
            self._count(transcribed, delivery, manifest.usage)
        else:
            require_same_work(job, delivery.message.message_id, manifest)
        return Published(job, manifest, ours)

    async def _render(self, transcribed: Transcribed) -> list[OutputFile]:
        """Render in a thread: a long transcript takes seconds, which would delay heartbeats."""
        options = transcribed.accepted.job.options
        wanted = Presentation.of(options)
        return await asyncio.to_thread(render, transcribed.transcript, options.formats, wanted)

    def _manifest(self, transcribed: Transcribed, delivery: LiveDelivery, stored: list[StoredOutput]) -> Manifest:
        job, transcript = transcribed.accepted.job, transcribed.transcript
        return Manifest(
            job_id=job.job_id,
            completed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            message_id=delivery.message.message_id,
            queue=delivery.message.queue,
            tenant=delivery.message.tenant,
            worker_id=self._worker_id,
            attempt=transcribed.accepted.attempt,
            input=transcribed.recording,
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
            usage=self._usage(transcribed, delivery.timings_seconds, stored),
            metadata=job.metadata,
        )

    def _usage(self, transcribed: Transcribed, seconds: Mapping[str, float], stored: list[StoredOutput]) -> Usage:
        device_seconds = {stage: seconds[stage] for stage in STAGES if stage in seconds}
        price = sum(device_seconds.values()) * self._price_per_hour / 3600 / max(1, self._devices())
        return Usage(
            audio_seconds=transcribed.audio_seconds,
            device_seconds=device_seconds,
            input_bytes=transcribed.recording.size_bytes,
            output_bytes=sum(output.size_bytes for output in stored),
            price=round(price, 8) if self._price_per_hour else None,
        )

    def _count(self, transcribed: Transcribed, delivery: LiveDelivery, usage: Usage | None) -> None:
        metrics, transcript, audio_seconds = self._metrics, transcribed.transcript, transcribed.audio_seconds
        if usage is not None:
            tenant = metrics.tenants.label(delivery.message.tenant)
            metrics.tenants.audio_seconds.labels(tenant).inc(usage.audio_seconds)
            metrics.tenants.device_seconds.labels(tenant).inc(sum(usage.device_seconds.values()))
        if (earlier := transcribed.earlier) is not None:  # the words were counted when they were transcribed
            work = "diarize" if transcribed.accepted.job.options.diarize else "redact"
            metrics.results_with_kept_words.labels(work).inc()
            self._count_content(transcript, earlier.redactions, set(earlier.warnings))
            return
        metrics.observe_published(transcript.language, transcript.avg_logprob)
        metrics.audio_seconds.inc(audio_seconds)
        if audio_seconds > 0:
            factor = sum(transcript.timings_seconds.values()) / audio_seconds
            metrics.real_time_factor.observe(factor, delivery.span.exemplar)
        self._count_content(transcript, {}, set())

    def _count_content(
        self, transcript: Transcript, redacted: Mapping[str, int], warned: set[TranscriptWarning]
    ) -> None:
        """Count warnings and redactions without those of an earlier job."""
        for warning in transcript.warnings:
            if warning not in warned:
                self._metrics.warnings.labels(warning.code).inc()
        for kind, count in transcript.redactions.items():
            self._metrics.redactions.labels(kind).inc(count - redacted.get(kind, 0))
