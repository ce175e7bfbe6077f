"""The benchmark's recordings: their annotations must match the audio."""

from pathlib import Path

import numpy as np
import pytest

from bench import corpus
from bench.corpus import Recording, Sound
from daemon.pipeline.types import SAMPLE_RATE

RATE = SAMPLE_RATE


def power_db(sound: Sound) -> float:
    return float(10 * np.log10(np.square(sound, dtype=np.float64).mean()))


def at(recording: Recording, start: float, seconds: float) -> Sound:
    return recording.audio[round(start * RATE) : round((start + seconds) * RATE)]


def test_cutting_and_joining_without_pauses_changes_nothing() -> None:
    call = corpus.call()
    joined = corpus.join("again", corpus.cut(call), gaps=[0.0, 0.0, 0.0])
    assert np.array_equal(joined.audio, call.audio)
    assert [s.text for s in joined.sentences] == [s.text for s in call.sentences]
    assert [s.start for s in joined.sentences] == pytest.approx([s.start for s in call.sentences], abs=1e-3)
    assert [t.end for t in joined.turns] == pytest.approx([t.end for t in call.turns], abs=1e-3)


def test_call_is_cut_in_silence() -> None:
    for cut in corpus.CUTS_SECONDS:
        assert power_db(at(corpus.call(), cut - 0.02, 0.04)) < -60


@pytest.mark.parametrize("recording", [*corpus.conditions(), corpus.long_call()], ids=lambda recording: recording.name)
def test_sentences_and_turns_match_speech(recording: Recording) -> None:
    assert recording.audio.dtype == np.float32
    assert [s.start for s in recording.sentences] == sorted(s.start for s in recording.sentences)
    quietest = np.percentile([power_db(at(recording, second, 0.5)) for second in range(int(recording.duration))], 2)
    for turn in recording.turns:
        assert turn.end <= recording.duration + 0.1
        assert power_db(at(recording, turn.start, turn.end - turn.start)) > quietest + 2
    for sentence in recording.sentences:
        assert any(turn.start - 0.5 <= sentence.start <= turn.end for turn in recording.turns)


def test_noise_has_the_requested_level() -> None:
    call = corpus.call()
    speech = call.audio[np.abs(call.audio) > 10 ** (-50 / 20)]
    added = corpus.noisy(call.audio, snr_db=10.0) - call.audio
    assert power_db(speech) - power_db(added) == pytest.approx(10.0, abs=0.1)


def test_telephone_filter_passes_only_its_band() -> None:
    time = np.arange(RATE) / RATE
    for frequency, passes in ((60, False), (1000, True), (3900, False), (6000, False)):
        tone = (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
        loss = power_db(tone) - power_db(corpus.telephone(tone))
        assert (loss < 1) if passes else (loss > 15), frequency


def test_recordings_are_the_same_each_time() -> None:
    assert np.array_equal(corpus.long_call().audio, corpus.long_call().audio)
    for one, again in zip(corpus.without_speech(1.0), corpus.without_speech(1.0), strict=True):
        assert np.array_equal(one.audio, again.audio)


def test_music_is_as_loud_as_speech() -> None:
    music = next(recording for recording in corpus.without_speech(4.0) if recording.name == "music")
    assert power_db(music.audio) == pytest.approx(power_db(at(corpus.call(), 8, 20)), abs=8)
    assert np.abs(music.audio).max() <= 1


def test_loops_start_where_annotated(tmp_path: Path) -> None:
    starts = corpus.write_loops(tmp_path / "loops.f32", seconds=100)
    written = np.fromfile(tmp_path / "loops.f32", dtype="<f4")
    assert len(written) >= 100 * RATE
    call = corpus.call().audio
    for start in starts:
        assert np.array_equal(written[round(start * RATE) :][: len(call)], call)
