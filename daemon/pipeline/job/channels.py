"""Transcribe a recording with one speaker per channel, such as a telephone call: each channel alone, then merge them.

The channel identifies the speaker without diarization, even where speakers overlap. Crosstalk is transcribed in both
channels: which of two equal words is the echo cannot be determined reliably, and no speech may be lost.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.reporter import Reporter
from daemon.protocol.events import STAGES, BackgroundProgress, PipelineEvent, Progress, StageDone
from daemon.protocol.priority import Priority
from daemon.schema.transcript import NO_SPEECH_FOUND, Models, Segment, Transcript, TranscriptWarning

# Run the whole job on one channel: float32, 16 kHz.
Transcribe = Callable[[np.ndarray, Reporter, Checkpoints], Transcript]


def transcribe_channels(
    channels: Sequence[np.ndarray],
    transcribe: Transcribe,
    reporter: Reporter,
    checkpoints: Checkpoints,
    usual_compute_type: str,
) -> Transcript:
    """Transcribe channels of equal length into one transcript with the speakers CHANNEL_00, CHANNEL_01, …

    Channels run one after the other, to need the memory of only one. Raises what `transcribe` raises.
    """
    transcripts = []
    for index, audio in enumerate(channels):
        part = ChannelReporter(reporter, index, len(channels))
        kept = checkpoints.part(f"channel-{index:02}")
        transcripts.append(transcribe(audio, part, kept))
    merged = merge(transcripts, usual_compute_type)
    for stage, seconds in merged.timings_seconds.items():
        reporter.emit(Progress(stage, 1.0))  # a channel without speech runs the first stage only
        reporter.emit(StageDone(stage, seconds))
    return merged


class ChannelReporter:
    """Report one channel's progress as a share of the whole job's, so that a stage's fraction never decreases."""

    def __init__(self, reporter: Reporter, index: int, count: int) -> None:
        self._reporter = reporter
        self._index = index
        self._count = count

    @property
    def priority(self) -> Priority:
        return self._reporter.priority

    def emit(self, event: PipelineEvent) -> None:
        match event:
            case Progress(stage, fraction):
                self._reporter.emit(Progress(stage, (self._index + fraction) / self._count))
            case BackgroundProgress(stage, fraction):
                self._reporter.emit(BackgroundProgress(stage, (self._index + fraction) / self._count))
            case StageDone():
                pass  # a stage is done only once all channels have finished it
            case _:
                self._reporter.emit(event)

    def check_cancelled(self) -> None:
        self._reporter.check_cancelled()


def merge(transcripts: Sequence[Transcript], usual_compute_type: str) -> Transcript:
    """Merge the channels' transcripts, given in channel order. Segments are sorted by start and may overlap."""
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
            "warnings": list(dict.fromkeys(warning for part in transcripts for warning in _warnings(part, segments))),
        }
    )


def _warnings(part: Transcript, segments: Sequence[Segment]) -> list[TranscriptWarning]:
    """Return a channel's warnings. That it has no words is worth one only if no channel has any."""
    return [warning for warning in part.warnings if not segments or warning.code != NO_SPEECH_FOUND]


def _labelled(segment: Segment, channel: int) -> Segment:
    speaker = f"CHANNEL_{channel:02}"
    words = [word.model_copy(update={"speaker": speaker}) for word in segment.words]
    return segment.model_copy(update={"speaker": speaker, "words": words})


def _speech_seconds(transcript: Transcript) -> float:
    return sum(segment.end - segment.start for segment in transcript.segments)


def _models(parts: Sequence[Models], usual_compute_type: str) -> Models:
    """Combine the channels' models: every aligner used, and the smallest compute type that any channel needed."""
    aligners = dict.fromkeys(part.alignment for part in parts if part.alignment)
    smaller = (part.compute_type for part in parts if part.compute_type != usual_compute_type)
    return parts[0].model_copy(
        update={"alignment": ",".join(aligners) or None, "compute_type": next(smaller, usual_compute_type)}
    )
