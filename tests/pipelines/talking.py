"""A pipeline without a model that logs a line about its job, as the real one does."""

import logging
from collections.abc import Sequence

import numpy as np

from daemon.options import JobOptions
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.reporter import Reporter
from daemon.transcript import Transcript
from tests.pipelines.scripted import ScriptedPipeline

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
