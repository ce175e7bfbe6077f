"""A recording whose channels hold one speaker each, as telephone calls do: each is transcribed apart, then all are merged.

Who speaks is then known without diarization, also where people speak at once. What leaks from one channel into another
is transcribed in both: which of two equal words is the echo cannot be told for certain, and nothing said is left out.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.reporter import Reporter
from daemon.protocol import STAGES
from daemon.transcript import Models, Segment, Transcript

# The whole job on one channel: float32, 16 kHz.
Transcribe = Callable[[np.ndarray, Reporter, Checkpoints], Transcript]


def transcribe_channels(
    channels: Sequence[np.ndarray],
    transcribe: Transcribe,
    reporter: Reporter,
    checkpoints: Checkpoints,
    usual_compute_type: str,
) -> Transcript:
    """One transcript of channels that have one length, with CHANNEL_00, … as speakers.

    One after the other: no more memory is needed than for one channel. Raises what `transcribe` raises.
    """
    transcripts = []
    for index, audio in enumerate(channels):
        part = ChannelReporter(reporter, index, len(channels))
        kept = checkpoints.part(f"channel-{index:02}")
        transcripts.append(transcribe(audio, part, kept))
    merged = merge(transcripts, usual_compute_type)
    for stage, seconds in merged.timings_seconds.items():
        reporter.progress(stage, 1.0)  # a channel without speech passes the first stage alone
        reporter.stage_done(stage, seconds)
    return merged


class ChannelReporter:
    """Reports one channel's progress as a share of all channels': a stage's fraction never goes back."""

    def __init__(self, reporter: Reporter, index: int, count: int) -> None:
        self._reporter = reporter
        self._index = index
        self._count = count

    def progress(self, stage: str, fraction: float) -> None:
        self._reporter.progress(stage, (self._index + fraction) / self._count)

    def stage_done(self, stage: str, seconds: float) -> None:
        """Not reported: a stage is done when it is for all channels."""

    def batch(self, chunks: int, room: int) -> None:
        self._reporter.batch(chunks, room)

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        self._reporter.heard(chunks, gated, dismissed)

    def alive(self) -> None:
        self._reporter.alive()

    def check_cancelled(self) -> None:
        self._reporter.check_cancelled()


def merge(transcripts: Sequence[Transcript], usual_compute_type: str) -> Transcript:
    """One transcript of the channels', in their order; segments are in the order of their start and may overlap."""
    labelled = [_labelled(segment, index) for index, part in enumerate(transcripts) for segment in part.segments]
    segments = sorted(labelled, key=lambda segment: segment.start)
    most_said = max(transcripts, key=_speech_seconds)
    timings: Counter[str] = Counter()
    for part in transcripts:
        timings.update(part.timings_seconds)
    return most_said.model_copy(
        update={
            "speakers": list(dict.fromkeys(segment.speaker for segment in segments)),
            "segments": segments,
            "models": _models([part.models for part in transcripts], usual_compute_type),
            "timings_seconds": {stage: round(timings[stage], 3) for stage in STAGES if stage in timings},
            "warnings": list(dict.fromkeys(warning for part in transcripts for warning in part.warnings)),
        }
    )


def _labelled(segment: Segment, channel: int) -> Segment:
    speaker = f"CHANNEL_{channel:02}"
    words = [word.model_copy(update={"speaker": speaker}) for word in segment.words]
    return segment.model_copy(update={"speaker": speaker, "words": words})


def _speech_seconds(transcript: Transcript) -> float:
    return sum(segment.end - segment.start for segment in transcript.segments)


def _models(parts: Sequence[Models], usual_compute_type: str) -> Models:
    """Each channel's language may have an aligner of its own. The compute type is the smallest that any channel needed."""
    aligners = dict.fromkeys(part.alignment for part in parts if part.alignment)
    smaller = (part.compute_type for part in parts if part.compute_type != usual_compute_type)
    return parts[0].model_copy(
        update={"alignment": ",".join(aligners) or None, "compute_type": next(smaller, usual_compute_type)}
    )
