"""The peers of `make accuracy`, run on one recording after the other with the same weights."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.accuracy_corpora import Case
from bench.corpus import Recording, write_wav
from bench.hypothesis import Hypothesis
from bench.libraries import LibraryTranscript, transcribe_faster_whisper_plain, transcribe_whisperx
from bench.real_runner import RunnerPeer, open_runner
from bench.setup import Setup, cores, find_model
from bench.tally import SpeakerTally, Tally, WordTally
from daemon.pipeline.checkpoints.parts import SavedTurns
from daemon.pipeline.types import Turn


@dataclass(frozen=True, slots=True)
class Peer:
    title: str
    times_words: bool
    tells_speakers: bool

    def measures(self, case: Case) -> bool:
        """Whether the peer has anything to measure on the recording."""
        return case.knows_text or self.tells_speakers

    def tally(self, case: Case, hypothesis: Hypothesis) -> Tally:
        return Tally(
            WordTally.of(case.recording, hypothesis, times_words=self.times_words) if case.knows_text else None,
            SpeakerTally.of(case.recording, hypothesis) if case.has_speakers and self.tells_speakers else None,
        )


TRANSCRIPTD = Peer("transcriptd", times_words=True, tells_speakers=True)
WHISPERX = Peer("whisperx", times_words=False, tells_speakers=True)
FASTER_WHISPER = Peer("faster-whisper", times_words=True, tells_speakers=False)
PEERS = (TRANSCRIPTD, WHISPERX, FASTER_WHISPER)


@dataclass(frozen=True, slots=True)
class Measurement:
    case: Case
    peer: Peer
    tally: Tally


async def measure(
    chosen: Sequence[Case], model: str, on_measured: Callable[[Measurement], None], keep: Path | None
) -> list[Measurement]:
    """Run every peer on every case. Recordings and transcripts are stored in `keep`, if given."""
    measured: list[Measurement] = []
    setup = Setup(find_model(model))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as libraries:
        async with open_runner(cores()) as runner:
            for case in chosen:
                found: dict[Peer, Hypothesis] = {}
                if TRANSCRIPTD.measures(case):
                    found[TRANSCRIPTD] = await _transcriptd(runner, case, model)
                for peer, transcribe in _library_calls(case, setup):
                    transcript: LibraryTranscript = libraries.submit(transcribe).result()
                    turns = transcript.turns if peer.tells_speakers and case.has_speakers else None
                    found[peer] = Hypothesis.of_library(transcript.segments, turns)
                for peer, hypothesis in found.items():
                    measured.append(Measurement(case, peer, peer.tally(case, hypothesis)))
                    on_measured(measured[-1])
                if keep:
                    _store(keep, case.name, case.recording, found)
    return measured


def _library_calls(case: Case, setup: Setup) -> Iterator[tuple[Peer, Callable[[], LibraryTranscript]]]:
    audio, language = case.recording.audio, case.recording.language
    bounds = (None, None)  # whisperx's defaults
    yield (
        WHISPERX,
        partial(transcribe_whisperx, audio, setup, language=language, diarize=case.has_speakers, speaker_bounds=bounds),
    )
    if FASTER_WHISPER.measures(case):
        yield FASTER_WHISPER, partial(transcribe_faster_whisper_plain, audio, setup, language=language)


async def _transcriptd(runner: RunnerPeer, case: Case, model: str) -> Hypothesis:
    with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
        audio = Path(name) / "audio.f32"
        case.recording.audio.astype("<f4").tofile(audio)
        checkpoints = Path(name) / "checkpoints"
        checkpoints.mkdir()
        options: dict[str, Any] = {"language": case.recording.language, "diarize": case.has_speakers}
        transcript = await runner.transcribe(audio, checkpoints, model=model, align="attention", **options)
        turns = _diarized(checkpoints) if case.has_speakers else None
    return Hypothesis.of_daemon(transcript, turns)


def _diarized(checkpoints: Path) -> list[Turn]:
    """Return the turns of the runner's diarization: a transcript has only the speakers of its words."""
    return SavedTurns.model_validate_json((checkpoints / "diarize.json").read_bytes()).restore().turns


def _store(folder: Path, name: str, recording: Recording, found: dict[Peer, Hypothesis]) -> None:
    """Store a recording as WAV, and what was said and recognized as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / re.sub(r"[^\w.]+", "-", name)
    write_wav(path.with_name(f"{path.name}.wav"), recording.audio)
    said = [sentence._asdict() for sentence in recording.sentences]
    recognized = {
        peer.title: {
            "segments": [segment._asdict() for segment in hypothesis.segments],
            "words": hypothesis.words,
            "warnings": hypothesis.warnings,
        }
        for peer, hypothesis in found.items()
    }
    content = {"sentences": said, "turns": [asdict(turn) for turn in recording.turns], **recognized}
    path.with_name(f"{path.name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
