"""Speech that a chunk's text left out is found, decoded alone, and inserted in order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.job.recovery import Omission, assemble, claim, omissions, recover_plainly
from daemon.pipeline.speech.chunking import merge_regions
from daemon.pipeline.speech.shortened import shorten
from daemon.pipeline.types import Chunk, Passage, TimedWord

CHUNK = Chunk(0.0, 20.0, ((0.0, 2.0), (5.0, 8.0), (9.0, 9.4), (10.0, 20.0)))


def tokenize(text: str) -> list[int]:
    return [ord(char) for char in text]


def passage(*words: tuple[str, float, float], chunk: Chunk = CHUNK) -> Passage:
    timed = [TimedWord(text, start, end, 0.5) for text, start, end in words]
    text = "".join(word.text for word in timed)
    return Passage(chunk, text, -0.2, tokenize(text), timed, language="en")


def found(omission: Omission, text: str) -> Passage:
    [(start, end)] = omission.chunk.regions
    words = [TimedWord(text, start, end, 0.5)] if text else []
    return Passage(omission.chunk, text, -0.3, tokenize(text), words, language="en")


def spoken(start: float, end: float) -> list[tuple[str, float, float]]:
    """Return words of half a second that fill a span."""
    count = int((end - start) * 2)
    return [(f" word{at}", start + at / 2, start + at / 2 + 0.5) for at in range(count)]


def test_region_without_words_is_decoded_alone() -> None:
    whole = passage((" One.", 0.0, 1.9), *spoken(10, 20))
    [omission] = omissions(whole, CHUNK, parts=False)
    assert (omission.chunk.start, omission.chunk.end) == (4.8, 8.2)  # and some of the pauses next to it
    assert omission.chunk.regions == ((5.0, 8.0),)
    assert omission.chunk.language == "en"

    decoded = assemble([whole], [omission], [found(omission, " Two.")], tokenize)
    assert [it.text for it in decoded.passages[0]] == [" One.", " Two.", "".join(it[0] for it in spoken(10, 20))]
    first, second, third = (it.chunk for it in decoded.passages[0])
    assert (first.start, first.end, first.regions) == (0.0, 2.0, ((0.0, 2.0),))
    assert (second.start, second.end) == (4.8, 8.2)
    assert (third.start, third.end, third.regions) == (9.0, 20.0, ((9.0, 9.4), (10.0, 20.0)))
    assert all(it.tokens == tokenize(it.text) for it in decoded.passages[0])
    assert decoded.unrecognized == []


def test_region_in_which_nothing_is_recognized_is_named() -> None:
    whole = passage((" One.", 0.0, 1.9), *spoken(10, 20))
    [omission] = omissions(whole, CHUNK, parts=False)
    decoded = assemble([whole], [omission], [found(omission, "")], tokenize)
    assert decoded.passages == [[whole]]
    assert decoded.unrecognized == [(5.0, 8.0)]


def test_beginning_of_a_region_without_words_is_decoded_alone() -> None:
    whole = passage(*spoken(0, 2), *spoken(5, 8), *spoken(13, 20))
    assert omissions(whole, CHUNK, parts=False) == []
    [omission] = omissions(whole, CHUNK, parts=True)
    assert omission.chunk.regions == ((10.0, 13.0),)
    assert (omission.chunk.start, omission.chunk.end) == (9.8, 13.0)


def test_word_stretched_over_omitted_speech_is_shortened_only_if_text_is_found() -> None:
    whole = passage(*spoken(0, 2), *spoken(5, 8), (" And", 10.0, 12.0), *spoken(12, 20))
    [omission] = omissions(whole, CHUNK, parts=True)
    [(start, end)] = omission.chunk.regions
    assert start == 10.0
    assert end == pytest.approx(11.59)
    kept = assemble([whole], [omission], [found(omission, "")], tokenize)
    assert kept.passages == [[whole]]
    assert kept.unrecognized == []  # the region has words
    parts = assemble([whole], [omission], [found(omission, " This is Diane.")], tokenize).passages[0]
    assert [it.text for it in parts][1] == " This is Diane."
    assert parts[2].words[0].start == pytest.approx(11.59)
    times = [time for it in parts for word in it.words for time in (word.start, word.end)]
    assert times == sorted(times)


def test_several_words_stretched_over_omitted_speech_are_shortened_together() -> None:
    """As Whisper base times "And I'm Sheila" after it omitted "This is Diane in New Jersey."."""
    stretched = [(" And", 10.0, 10.8), (" I'm", 10.8, 12.3), (" Sheila", 12.3, 12.6)]
    whole = passage(*spoken(0, 2), *spoken(5, 8), *stretched, *spoken(12.6, 20))
    [omission] = omissions(whole, CHUNK, parts=True)
    [(start, end)] = omission.chunk.regions
    assert start == 10.0
    assert end == pytest.approx(12.3 - 2 * (3 * 0.07 + 0.2))
    parts = assemble([whole], [omission], [found(omission, " This is Diane.")], tokenize).passages[0]
    assert [word.start for word in parts[2].words[:3]] == pytest.approx([end, end + 0.41, 12.3])
    lone = passage(*spoken(0, 2), (" well", 5.0, 5.4), *spoken(10, 20))  # the pause after it does not count
    assert [it.chunk.regions for it in omissions(lone, CHUNK, parts=True)] == [((5.4, 8.0),)]


def test_text_of_a_rejected_chunk_is_only_what_is_found() -> None:
    silent = Passage(CHUNK, "", 0.0, [], language="en")
    missed = omissions(silent, CHUNK, parts=True)
    assert [it.chunk.regions[0] for it in missed] == [(0.0, 2.0), (5.0, 8.0), (10.0, 20.0)]
    nothing = assemble([silent], missed, [found(it, "") for it in missed], tokenize)
    assert (nothing.passages, nothing.unrecognized) == ([[silent]], [])  # reported as a rejected chunk
    some = assemble(
        [silent], missed, [found(it, text) for it, text in zip(missed, ("", " Two.", ""), strict=True)], tokenize
    )
    assert [it.text for it in some.passages[0]] == [" Two."]
    assert some.unrecognized == [(0.0, 2.0), (10.0, 20.0)]
    alone = Chunk(0.0, 2.0, ((0.0, 2.0),))
    assert omissions(replace(silent, chunk=alone), alone, parts=True) == []


def test_words_that_only_had_a_wrong_time_are_moved() -> None:
    whole = passage((" One.", 0.0, 1.0), (" Hello", 1.0, 1.5), (" there,", 1.5, 2.0), *spoken(10, 20))
    [omission] = omissions(whole, CHUNK, parts=False)
    text = found(omission, " Hello there.")
    claim(omission, text, tokenize)
    assert text.text == " Hello there,"
    assert [word.text for word in omission.draft.words][:2] == [" One.", " word0"]
    parts = assemble([whole], [omission], [text], tokenize).passages[0]
    assert "".join(it.text for it in parts) == whole.text


def test_words_that_were_spoken_twice_are_kept() -> None:
    whole = passage((" Hello there.", 0.0, 2.0), *spoken(10, 20))
    [omission] = omissions(whole, CHUNK, parts=False)
    text = found(omission, " Hello there.")
    claim(omission, text, tokenize)
    parts = assemble([whole], [omission], [text], tokenize).passages[0]
    assert [it.text for it in parts][:2] == [" Hello there.", " Hello there."]


def test_basic_mode_decodes_omitted_speech_alone() -> None:
    first = passage((" One.", 0.0, 1.9), (" Four.", 11.0, 12.0), chunk=CHUNK.part(0.0, 12.0))
    second = passage((" Five.", 12.0, 13.0), chunk=CHUNK.part(12.0, 20.0))

    def decode(chunk: Chunk) -> list[Passage]:
        return [passage((" Two.", 5.0, 7.0), chunk=chunk)]

    decoded = recover_plainly(CHUNK, [first, second], decode, tokenize)
    assert [it.text for it in decoded.passages[0]] == [" One.", " Two.", " Four.", " Five."]
    silent = recover_plainly(
        CHUNK, [first, second], lambda chunk: [passage((" Thank you.", 5, 6), chunk=chunk)], tokenize
    )
    assert (silent.passages, silent.unrecognized) == ([[first, second]], [(5.0, 8.0)])


# --- chunks -------------------------------------------------------------------------------------------------------

SPANS = st.lists(st.tuples(st.floats(0.05, 12), st.floats(0.1, 12)), min_size=1, max_size=12)


def regions_of(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    regions = []
    now = 0.0
    for pause, length in spans:
        regions.append((now + pause, now + pause + length))
        now = regions[-1][1]
    return regions


@given(SPANS)
def test_chunks_keep_every_region_and_are_short(spans: list[tuple[float, float]]) -> None:
    regions = regions_of(spans)
    chunks = merge_regions(regions, 30)
    assert [region for chunk in chunks for region in chunk.regions] == regions
    assert all(shorten(chunk).seconds <= 30 for chunk in chunks)
    assert all((chunk.start, chunk.end) == (chunk.regions[0][0], chunk.regions[-1][1]) for chunk in chunks)


@given(SPANS)
def test_short_pauses_change_no_chunk(spans: list[tuple[float, float]]) -> None:
    """As whisperx does, each chunk takes as many regions as fit."""
    regions = regions_of([(pause / 10, length) for pause, length in spans])
    greedy: list[list[tuple[float, float]]] = []
    for region in regions:
        if greedy and region[1] - greedy[-1][0][0] <= 30:
            greedy[-1].append(region)
        else:
            greedy.append([region])
    assert [list(chunk.regions) for chunk in merge_regions(regions, 30)] == greedy


def test_sentences_share_a_chunk_whatever_the_pause_between_them() -> None:
    sentences = [(60.0 * index, 60.0 * index + 4.0) for index in range(8)]
    assert [len(chunk.regions) for chunk in merge_regions(sentences, 30)] == [6, 2]
    assert merge_regions([], 30) == []


def test_what_is_said_between_long_pauses_is_not_cut_if_it_fits_into_a_chunk() -> None:
    chunks = merge_regions([(0.0, 11.0), (15.0, 16.0), (16.5, 38.0), (41.0, 42.0)], 30)
    assert [chunk.regions for chunk in chunks] == [((0.0, 11.0),), ((15.0, 16.0), (16.5, 38.0), (41.0, 42.0))]


def test_only_short_or_near_utterances_share_a_chunk() -> None:
    assert len(merge_regions([(0.0, 8.0), (12.0, 20.0)], 30)) == 1
    assert len(merge_regions([(0.0, 8.0), (14.0, 22.0)], 30)) == 2
    assert len(merge_regions([(0.0, 8.0), (14.0, 18.0)], 30)) == 2
    assert len(merge_regions([(0.0, 4.0), (14.0, 18.0)], 30)) == 1
