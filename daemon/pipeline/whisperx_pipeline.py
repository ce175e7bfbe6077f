"""The pipeline that the runner process serves: models loaded once, then speech detection, Whisper, alignment, diarization."""

# What imports torch is imported in load(): its environment must be set first, and a failing import is a failed set-up.
from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from daemon.catalog import model_name
from daemon.errors import SetupFailed, TranscriptdError
from daemon.options import JobOptions
from daemon.pipeline.channels import transcribe_channels
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk
from daemon.pipeline.quiet import prepare_environment, quiet_loggers, quietly
from daemon.pipeline.reporter import Reporter
from daemon.pipeline.settings import RunnerSettings
from daemon.protocol import Ready
from daemon.transcript import Transcript

if TYPE_CHECKING:
    from daemon.pipeline.stages import Stages


class WhisperXPipeline:
    """Serves jobs of several threads at once; which of them come together makes no difference to any."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._stages: Stages | None = None

    def load(self) -> Ready:
        """Load every default model and run each once, so that the first job finds them warm.

        Raises SetupFailed or ModelUnavailable with what to do about it.
        """
        began = time.monotonic()
        prepare_environment(self._settings.hf_token)
        try:
            with quietly():
                from daemon.pipeline.stages import Stages
            quiet_loggers()
            stages = Stages(self._settings)
            second = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
            stages.warm_up(second, [Chunk(0.0, 1.0, ((0.0, 1.0),))])
        except TranscriptdError:
            raise
        except Exception as error:
            raise SetupFailed(
                f"the models could not be loaded ({type(error).__name__}: {error}); check the installation, the GPU "
                "driver and the memory of this machine"
            ) from error
        self._stages = stages
        return Ready(
            device=stages.device.type,
            device_name=stages.device.name,
            compute_type=stages.device.compute_type,
            models=stages.names(model_name(self._settings.model)),
            load_seconds=round(time.monotonic() - began, 3),
        )

    def run(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        """The transcript of `audio`: float32, 16 kHz, never written to; memory maps will do.

        It is one array, or one for each channel where the options split channels, all of the same length.

        Where a stage fails the job goes on by the next best method, and the transcript's warnings say so. Raises
        Interrupted when the job is given up, OutOfMemory when not even one chunk fits, DeviceFault when CUDA is broken
        in this process, ModelUnavailable when the job's model cannot be had.
        """
        if self._stages is None:
            raise SetupFailed("run() was called before load()")
        from daemon.pipeline.devices import free_memory
        from daemon.pipeline.job_run import JobRun

        free_memory()  # what the last job left, above all one that failed: its frames are gone only now
        stages = self._stages

        def transcribe(audio: np.ndarray, reporter: Reporter, checkpoints: Checkpoints) -> Transcript:
            return JobRun(stages, job_id, audio, options, reporter, checkpoints).transcript()

        if options.channels == "split":
            return transcribe_channels(audio, transcribe, reporter, checkpoints, stages.device.compute_type)
        (mix,) = audio
        return transcribe(mix, reporter, checkpoints)
