"""The diarization stage of a job."""

from daemon.pipeline.checkpoints import parts as saved
from daemon.pipeline.checkpoints.parts import SavedTurns
from daemon.pipeline.runtime.work import JobWork
from daemon.pipeline.speech import detector as vad
from daemon.pipeline.stages import Stages
from daemon.pipeline.types import Diarization


def diarize(
    stages: Stages, work: JobWork, speech: vad.Speech | None, consequence: str = "the speakers are unknown"
) -> Diarization | None:
    """Load the speaker turns from a checkpoint, or compute and save them.

    Raises Interrupted or DeviceFault. On any other failure, add a warning, which names the `consequence`, and return None.
    """
    diarizer, fallback = stages.diarizer, work.fallback
    with stages.diarizer_lock.held(work.timer), work.timer.stage("diarize"):
        found = saved.load(
            work.checkpoints, "diarize.json", SavedTurns, lambda it: it.diarizer == diarizer.name and it.fits()
        )
        if found is not None:
            fallback.repeat(found.warnings)
            return found.restore()
        diarized = _compute(stages, work, speech, consequence)
        if diarized is not None:
            part = SavedTurns.of(diarizer.name, diarized, fallback.warnings())
            saved.save(work.checkpoints, "diarize.json", part)
        return diarized


def _compute(stages: Stages, work: JobWork, speech: vad.Speech | None, consequence: str) -> Diarization | None:
    options, diarizer = work.options, stages.diarizer
    progress = stages.diarizer_lock.lending(work.timer, work.timer.progress_callback("diarize"))

    def compute(size: int) -> Diarization:
        return diarizer.diarize(
            work.audio,
            speech.segmentation if speech else None,
            progress,
            **{name: getattr(options, name) for name in options.own_speaker_bounds},
            expected_speakers=(options.min_speakers, options.max_speakers),
            batch_size=size,
        )

    return work.fallback.or_none(
        lambda: work.fallback.with_memory("diarize", diarizer.batch_size, compute),
        "diarization_failed",
        "diarize",
        consequence,
        memory_matters=False,  # prefer a transcript without speakers to a retry that may fail the same way
    )
