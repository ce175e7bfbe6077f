"""Diarization's part of a job: who speaks when, from a checkpoint or the pipeline; None where that fails."""

from daemon.pipeline import saved, vad
from daemon.pipeline.pieces import Diarization
from daemon.pipeline.saved import SavedTurns
from daemon.pipeline.stages import Stages
from daemon.pipeline.work import Work


def diarize(stages: Stages, work: Work, speech: vad.Speech | None) -> Diarization | None:
    """Keeps what it finds as a checkpoint. Raises Interrupted or DeviceFault; any other failure is a warning and None."""
    diarizer, ladder = stages.diarizer, work.ladder
    with stages.diarizer_slot.held(work.watch), work.watch.stage("diarize"):
        found = saved.load(
            work.checkpoints, "diarize.json", SavedTurns, lambda it: it.diarizer == diarizer.name and it.fits()
        )
        if found is not None:
            ladder.repeat(found.warnings)
            return found.restore()
        diarized = _compute(stages, work, speech)
        if diarized is not None:
            part = SavedTurns.of(diarizer.name, diarized, ladder.warnings())
            saved.save(work.checkpoints, "diarize.json", part)
        return diarized


def _compute(stages: Stages, work: Work, speech: vad.Speech | None) -> Diarization | None:
    options, diarizer, progress = work.options, stages.diarizer, work.watch.progress_of("diarize")

    def compute(size: int) -> Diarization:
        return diarizer.diarize(
            work.audio,
            speech.segmentation if speech else None,
            progress,
            num_speakers=options.num_speakers,
            min_speakers=options.min_speakers,
            max_speakers=options.max_speakers,
            batch_size=size,
        )

    return work.ladder.or_none(
        lambda: work.ladder.with_memory("diarize", diarizer.batch_size, compute),
        "diarization_failed",
        "diarize",
        "the speakers are unknown",
        memory_matters=False,  # a transcript without speakers is worth more than another try that may end the same
    )
