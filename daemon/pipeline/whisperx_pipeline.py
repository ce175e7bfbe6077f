"""The pipeline of the runner process: speech detection, Whisper, alignment and diarization, with models loaded once."""

# load() imports the modules that import torch: the environment must be set first, and an ImportError is a SetupFailed.
from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from daemon.errors import SetupFailed, TranscriptdError
from daemon.pipeline.checkpoints.fingerprint import fingerprint
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.job.channels import transcribe_channels
from daemon.pipeline.runtime.library_output import prepare_environment, quiet_loggers, suppress_library_output
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.types import SAMPLE_RATE, Chunk
from daemon.protocol.messages import Ready
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.catalog import diarization_name, model_name
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from daemon.telemetry.redaction import describe_with_type
from daemon.weights.verified import VerifiedWeights

if TYPE_CHECKING:
    from daemon.pipeline.stages import Stages


class WhisperXPipeline:
    """Run jobs from several threads at once. A job's transcript does not depend on the jobs that run with it."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._stages: Stages | None = None

    def load(self) -> Ready:
        """Load every default model and warm it up.

        Raises SetupFailed or ModelUnavailable; the message says how to fix it.
        """
        began = time.monotonic()
        prepare_environment(self._settings.hf_token)
        try:
            with ThreadPoolExecutor(1, "verify weights") as pool:
                # Hashing takes seconds for a large model; the imports take as long, on another core.
                verifying = pool.submit(self._verify_weights)
                with suppress_library_output():
                    from daemon.pipeline.stages import Stages
                quiet_loggers()
                weights = verifying.result()
            stages = Stages(self._settings, weights)
            second = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
            stages.warm_up(second, [Chunk(0.0, 1.0, ((0.0, 1.0),))])
        except TranscriptdError:
            raise
        except Exception as error:
            raise SetupFailed(
                f"cannot load the models ({describe_with_type(error)}); check the installation, the GPU driver and "
                "the available memory"
            ) from error
        self._stages = stages
        models = stages.names(model_name(self._settings.model))
        return Ready(
            device=stages.device.type,
            device_name=stages.device.name,
            compute_type=stages.device.compute_type,
            models=models,
            load_seconds=round(time.monotonic() - began, 3),
            fingerprint=fingerprint(self._settings, models),
        )

    def _verify_weights(self) -> VerifiedWeights:
        """Verify the models to load, before a library opens them. Raises ModelUnavailable."""
        settings = self._settings
        weights = VerifiedWeights.from_environment(
            settings.weights_manifest, require_pins=settings.require_pinned_weights, hf_token=settings.hf_token
        )
        weights.verify_at_start(
            settings.model,
            diarization_name(settings.diarization_model, has_token=bool(settings.hf_token)),
            [
                (language, name)
                for language, _, name in (item.partition("=") for item in settings.alignment_models)
                if name
            ],
        )
        return weights

    def run(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        """Transcribe `audio`: float32, 16 kHz. It is never written to, so read-only memory maps are fine.

        It is a single array, or one array per channel if the options split channels; all have the same length.

        If a stage fails, the job falls back to the next best method and adds a warning to the transcript. Raises
        Interrupted when the job is cancelled, OutOfMemory when not even one chunk fits into memory, DeviceFault when
        CUDA is broken in this process, ModelUnavailable when the job's model cannot be loaded.
        """
        stages = self._begin()
        from daemon.pipeline.job.run import JobRun

        def transcribe(audio: np.ndarray, reporter: Reporter, checkpoints: Checkpoints) -> Transcript:
            return JobRun(stages, job_id, audio, options, reporter, checkpoints).transcript()

        if options.channels == "split":
            return transcribe_channels(audio, transcribe, reporter, checkpoints, stages.device.compute_type)
        (mix,) = audio
        return transcribe(mix, reporter, checkpoints)

    def diarize_again(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        earlier: Transcript,
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        """Return the earlier transcript of the same audio with new speakers. Its words and their times stay the same.

        Raises what `run` raises.
        """
        stages = self._begin()
        from daemon.pipeline.job.diarize_again import diarize_again

        (mix,) = audio
        return diarize_again(stages, job_id, mix, earlier, options, reporter, checkpoints)

    def _begin(self) -> Stages:
        """Return the loaded stages for a job. Raises SetupFailed."""
        if self._stages is None:
            raise SetupFailed("run() was called before load()")
        from daemon.pipeline.runtime.device import free_memory

        free_memory()  # left over from the previous job: the frames of a failed one are released only now
        return self._stages
