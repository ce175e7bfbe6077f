"""A pipeline without a model that logs one line about its job, as the real pipeline does."""

import logging
from collections.abc import Sequence

import numpy as np

from bench.scripted_pipeline import ScriptedPipeline
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.reporter import Reporter
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript

log = logging.getLogger("transcriptd.pipeline")


class TalkingPipeline(ScriptedPipeline):
    def run(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        log.info("talking")
        return super().run(job_id, audio, options, reporter, checkpoints)
