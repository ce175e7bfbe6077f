"""The tables of `make accuracy`: how errors are added up, compared and printed, and the recordings behind them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from bench import pauses
from bench.accuracy import FASTER_WHISPER, PEERS, TRANSCRIPTD, WHISPERX, Measurement
from bench.accuracy_corpora import CALL, CONVERSATIONS, PAUSES, SILENCE, Case
from bench.accuracy_rows import rows_of
from bench.accuracy_table import report, table
from bench.conversations import conversations
from bench.corpora import QUIET
from bench.corpus import Recording
from bench.hypothesis import Hypothesis, Segment
from bench.reference import Sentence
from bench.tally import total
from daemon.pipeline.types import SAMPLE_RATE, Turn

SAID = Recording(
    "x",
    np.zeros(10 * SAMPLE_RATE, np.float32),
    [Sentence(1.0, "Cats sleep.", "a"), Sentence(5.0, "Dogs bark loudly.", "b")],
    [Turn(1.0, 3.0, "a"), Turn(5.0, 9.0, "b")],
)
CALL_CASE = Case(CALL, SAID, ("quiet",))

EXACT = Hypothesis(
    [Segment(1.0, 3.0, "Cats sleep.", "S0"), Segment(5.0, 9.0, "Dogs bark loudly.", "S1")],
    [("Cats", 1.1), ("sleep.", 2.0), ("Dogs", 4.7), ("bark", 6.0), ("loudly.", 7.0)],
)
MERGED = Hypothesis([Segment(1.0, 9.0, "Cats sleep. Dogs bark.", "S0")], [], turns=[Turn(1.0, 9.0, "S0")])


def measured(case: Case = CALL_CASE, **hypotheses: Hypothesis) -> list[Measurement]:
    """Return a measurement for each named peer."""
    peers = {peer.title.replace("-", "_"): peer for peer in PEERS}
    return [Measurement(case, peers[name], peers[name].tally(case, each)) for name, each in hypotheses.items()]


def lines(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()[2:]]


# --- tallies


def test_errors_of_recordings_are_added_up() -> None:
    both = total([TRANSCRIPTD.tally(CALL_CASE, EXACT), TRANSCRIPTD.tally(CALL_CASE, MERGED)])
    assert both.words is not None
    assert both.speakers is not None
    assert (both.words.words, both.words.lost, both.words.invented) == (10, 1, 0)
    assert both.words.error_rate == 0.1
    assert both.words.start_errors_seconds == pytest.approx((0.1, 0.3))
    assert both.words.start_error(50) == pytest.approx(0.2)
    assert both.speakers.der == pytest.approx((0 + 2 + 2) / 12), "2 s with the wrong speaker, 2 s in silence"
    assert (both.speakers.right_counts, both.speakers.recordings) == (1, 2)
    assert both.speakers.word_error_rate == pytest.approx(5 / 10), "three words missing there, two invented here"


def test_peer_without_word_times_or_speakers_has_no_such_values() -> None:
    of_whisperx = WHISPERX.tally(CALL_CASE, MERGED)
    assert of_whisperx.words is not None
    assert of_whisperx.words.start_error(50) is None
    assert FASTER_WHISPER.tally(CALL_CASE, EXACT).speakers is None


def test_speakers_are_counted_in_the_diarization_if_it_is_known() -> None:
    found = Hypothesis(MERGED.segments, [], turns=[Turn(1.0, 3.0, "S0"), Turn(5.0, 9.0, "S1")])
    tally = WHISPERX.tally(CALL_CASE, found).speakers
    assert tally is not None
    assert tally.right_counts == 1
    assert tally.diarization_der == 0
    assert tally.der > 0, "its segments have one speaker each"


def test_recording_without_text_has_speakers_only() -> None:
    case = Case(CONVERSATIONS, Recording("x", SAID.audio, [], SAID.turns), ("meetings",), knows_text=False)
    tally = TRANSCRIPTD.tally(case, EXACT)
    assert tally.words is None
    assert tally.speakers is not None
    assert tally.speakers.word_error_rate is None
    assert [peer for peer in PEERS if peer.measures(case)] == [TRANSCRIPTD, WHISPERX]


# --- tables


def test_row_has_a_line_for_each_peer_and_its_best_values_bold() -> None:
    found = measured(transcriptd=EXACT, whisperx=MERGED, faster_whisper=EXACT)
    assert lines(table(rows_of(CALL, found))) == [
        [
            "quiet",
            "transcriptd",
            "**0.000**",
            "**0**",
            "0",
            "0.20",
            "0.29",
            "0.30",
            "**0.000**",
            "**0.000**",
            "**1/1**",
        ],
        ["", "whisperx", "0.200", "1", "0", "–", "–", "–", "0.667 (0.667)", "1.000", "0/1"],
        ["", "faster-whisper", "**0.000**", "**0**", "0", "0.20", "0.29", "0.30", "–", "–", "–"],
    ]


def test_recording_counts_in_each_of_its_conditions() -> None:
    cases = [
        Case(PAUSES, SAID, ("pauses of 1 s", "all pauses, es"), has_speakers=False),
        Case(PAUSES, SAID, ("pauses of 1 s", "all pauses, de"), has_speakers=False),
        Case(PAUSES, SAID, ("pauses of 2 s", "all pauses, de"), has_speakers=False),
    ]
    rows = rows_of(PAUSES, [each for case in cases for each in measured(case, transcriptd=EXACT)])
    words = {row.condition: tally.words.words for row in rows for tally in row.tallies.values() if tally.words}
    expected = {"pauses of 1 s": 10, "pauses of 2 s": 5, "all pauses, es": 5, "all pauses, de": 10}
    assert list(words.items()) == list(expected.items()), "in this order"


def test_conditions_of_the_call_are_also_added_up() -> None:
    cases = [Case(CALL, SAID, (name,)) for name in ("quiet", "noisy")]
    rows = rows_of(CALL, [each for case in cases for each in measured(case, transcriptd=EXACT)])
    assert [row.condition for row in rows] == ["quiet", "noisy", "all"]


def test_worse_values_are_named() -> None:
    (row,) = rows_of(CALL, measured(transcriptd=MERGED, faster_whisper=EXACT))
    named = ["call, quiet: WER 0.200, faster-whisper 0.000", "call, quiet: Lost 1, faster-whisper 0"]
    assert row.worse(tolerated=True) == named
    assert row.worse(tolerated=False) == named[:1], "one word is within the tolerance"
    (row,) = rows_of(CALL, measured(transcriptd=EXACT, faster_whisper=MERGED))
    assert row.worse(tolerated=True) == []


def test_small_differences_are_named_but_tolerated() -> None:
    later = Hypothesis(EXACT.segments, [("Cats", 1.14), *EXACT.words[1:]])
    (row,) = rows_of(CALL, measured(transcriptd=later, faster_whisper=EXACT))
    assert row.worse(tolerated=True) == ["call, quiet: Start error, s: median 0.22, faster-whisper 0.20"]
    assert row.worse(tolerated=False) == []


def test_report_has_the_corpora_that_were_measured() -> None:
    silent = Case(SILENCE, Recording("hum", SAID.audio, [], []), ("hum",), has_speakers=False)
    nothing, invented = Hypothesis([], []), Hypothesis([Segment(0, 1, "Thank you.", None)], [])
    found = [*measured(transcriptd=EXACT), *measured(silent, transcriptd=invented, whisperx=nothing)]
    text = report(found, (CALL, PAUSES, SILENCE), "base")
    assert "| quiet " in text
    assert "| hum               | 2           | **0**    |" in text
    assert "- silence, hum: Invented 2, whisperx 0" in text


# --- recordings


@pytest.mark.parametrize("language", pauses.VOICES)
def test_sentences_start_where_the_reference_says(language: str) -> None:
    recording = pauses.with_pauses(language, 2.5, is_noisy=False)
    assert recording.language == language
    for sentence, turn in zip(recording.sentences, recording.turns, strict=True):
        first = round(sentence.start * SAMPLE_RATE)
        assert abs(recording.audio[first]) > QUIET
        assert not recording.audio[first - SAMPLE_RATE // 2 : first].any()
        assert turn.start == sentence.start
    pause = recording.turns[1].start - recording.turns[0].end
    assert pause == pytest.approx(2.5, abs=1e-3)


def test_chunk_of_30_seconds_holds_five_sentences_down_to_one() -> None:
    def in_first_window(seconds: float) -> int:
        recording = pauses.with_pauses("en", seconds, is_noisy=False)
        return sum(turn.end <= 30 for turn in recording.turns)

    counts = [in_first_window(seconds) for seconds in pauses.PAUSES_SECONDS]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (5, 1)


def test_line_noise_lies_under_all_of_a_noisy_recording() -> None:
    quiet, noisy = (pauses.with_pauses("en", 1.0, is_noisy=value) for value in (False, True))
    added = noisy.audio - quiet.audio
    assert np.square(added[: SAMPLE_RATE // 2]).mean() == pytest.approx(np.square(added).mean(), rel=0.1)
    assert noisy.sentences == quiet.sentences


RTTM = "SPEAKER x 1 0.5 1.25 <NA> <NA> anna <NA> <NA>\nSPEAKER x 1 2 0.5 <NA> <NA> bert <NA> <NA>\n"


def test_conversations_are_read_by_folder(tmp_path: Path) -> None:
    for folder in ("meetings", "calls"):
        (tmp_path / folder).mkdir()
        wavfile.write(tmp_path / folder / "x.wav", 8_000, np.full((8_000 * 3, 2), 8_192, np.int16))
        (tmp_path / folder / "x.rttm").write_text(RTTM)
    found = conversations(tmp_path)
    assert list(found) == ["calls", "meetings"]
    (recording,) = found["meetings"]
    assert recording.duration == pytest.approx(3, abs=0.01)
    assert np.median(recording.audio) == pytest.approx(0.25, abs=0.01)
    assert recording.turns == [Turn(0.5, 1.75, "anna"), Turn(2.0, 2.5, "bert")]


def test_conversation_without_speakers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no"):
        conversations(tmp_path)
    wavfile.write(tmp_path / "x.wav", SAMPLE_RATE, np.zeros(SAMPLE_RATE, np.int16))
    with pytest.raises(ValueError, match=r"has no x\.rttm"):
        conversations(tmp_path)
