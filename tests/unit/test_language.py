"""The vote on a recording's language, and when a chunk may have its own."""

import pytest

from daemon.pipeline.asr.language import (
    Probabilities,
    Voter,
    among,
    chunk_language,
    cut_at_pauses,
    parts_of_uncertain,
    split,
    vote,
    voters,
)
from daemon.pipeline.types import Chunk


def chunk(start: float, speech: float = 10.0, *, doubtful: bool = False) -> Chunk:
    return Chunk(start, start + speech, ((start, start + speech),), doubtful)


def test_all_chunks_of_a_short_recording_vote_weighted_by_speech() -> None:
    pauses = Chunk(30.0, 50.0, ((30.0, 34.0), (48.0, 50.0)))
    assert voters([chunk(0.0), pauses]) == [Voter(chunk(0.0), 10.0), Voter(pauses, 6.0)]
    assert voters([]) == []


def test_long_recording_is_sampled_from_end_to_end() -> None:
    chunks = [chunk(start, 20.0 + start % 7) for start in range(0, 7200, 30)]
    polled = voters(chunks, limit=8)
    assert len(polled) == 8
    starts = [voter.chunk.start for voter in polled]
    assert starts == sorted(starts)
    assert all(900 * index <= start < 900 * (index + 1) + 60 for index, start in enumerate(starts))
    assert sum(voter.weight for voter in polled) == pytest.approx(sum(it.speech_seconds for it in chunks))
    assert min(voter.chunk.speech_seconds for voter in polled) > 24  # the one with the most speech in its part


def test_vote_is_weighted_by_speech() -> None:
    english, german = {"en": 0.9, "de": 0.1}, {"en": 0.2, "de": 0.8}
    assert vote([(english, 10.0), (german, 10.0)]).language == "en"
    found = vote([(english, 10.0), (german, 30.0)])
    assert found.language == "de"
    assert found.probability == pytest.approx(0.625)
    assert found.probabilities == {"de": pytest.approx(0.625), "en": pytest.approx(0.375)}
    assert list(found.probabilities) == ["de", "en"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([], {"nl": 0.7, "de": 0.2, "en": 0.1}),
        (["de", "en"], {"de": 2 / 3, "en": 1 / 3}),
        (["de", "yue"], {"de": 1.0}),  # older models have no Cantonese
    ],
)
def test_detection_among_allowed_languages(allowed: list[str], expected: Probabilities) -> None:
    (found,) = among(allowed, [{"nl": 0.7, "de": 0.2, "en": 0.1}])
    assert found == pytest.approx(expected)


def test_impossible_languages_are_equally_likely() -> None:
    assert among(["de", "en"], [{"nl": 1.0, "de": 0.0, "en": 0.0}]) == [{"de": 0.5, "en": 0.5}]


def test_only_the_likeliest_languages_are_reported() -> None:
    ballot = dict.fromkeys("af am ar as az ba be bg bn bo".split(), 0.1)
    assert len(vote([(ballot, 1.0)]).probabilities) == 5


@pytest.mark.parametrize(
    ("ballot", "speech", "expected"),
    [
        ({"de": 0.9, "en": 0.1}, 10.0, "de"),
        ({"de": 0.6, "en": 0.4}, 10.0, "en"),  # likelier, but not convincing
        ({"de": 0.99, "en": 0.01}, 1.0, "en"),  # too short to identify the language
        ({"en": 0.3, "nn": 0.2}, 10.0, "en"),
    ],
)
def test_chunk_switches_only_with_convincing_evidence(ballot: dict[str, float], speech: float, expected: str) -> None:
    assert chunk_language(ballot, chunk(0.0, speech), "en") == expected


def test_chunks_are_cut_at_pauses_with_enough_speech_on_both_sides() -> None:
    regions = ((0.0, 1.0), (2.0, 5.0), (5.5, 8.0), (9.0, 14.0), (15.0, 15.5))
    cut = cut_at_pauses([Chunk(0.0, 15.5, regions, doubtful=True), Chunk(20.0, 21.0, ((20.0, 21.0),))])
    assert [(part.start, part.end) for part in cut] == [(0.0, 8.0), (9.0, 15.5), (20.0, 21.0)]
    assert [region for part in cut[:2] for region in part.regions] == list(regions)
    assert [part.doubtful for part in cut] == [True, True, False]


GERMAN, ENGLISH, MIXED = {"de": 0.9, "en": 0.1}, {"en": 0.95, "de": 0.05}, {"en": 0.5, "de": 0.45}


@pytest.mark.parametrize(
    ("polled", "expected"),
    [
        pytest.param([(ENGLISH, 10.0), (GERMAN, 10.0)], {"de": 0.5, "en": 0.5}, id="half and half"),
        pytest.param([(ENGLISH, 10.0), (ENGLISH, 10.0)], {}, id="one language"),
        pytest.param([(GERMAN, 10.0)], {"de": 1.0}, id="all in another language than the one found"),
        pytest.param([(ENGLISH, 30.0), (GERMAN, 5.0)], {}, id="a short part in another"),
        pytest.param([(ENGLISH, 4.0), (GERMAN, 1.5)], {}, id="too short to tell"),
        pytest.param([(ENGLISH, 10.0), (MIXED, 10.0)], {}, id="uncertain"),
        pytest.param([(ENGLISH, 10.0), ({"de": 0.6, "nl": 0.3}, 10.0)], {}, id="uncertain other languages"),
        pytest.param([({}, 0.0), (ENGLISH, 10.0)], {}, id="no speech"),
    ],
)
def test_split_needs_certain_languages_with_much_speech(
    polled: list[tuple[Probabilities, float]], expected: dict[str, float]
) -> None:
    parts = [Voter(chunk(30.0 * index, speech), speech) for index, (_, speech) in enumerate(polled)]
    ballots = [ballot or {"en": 1.0} for ballot, _ in polled]
    found = split(ballots, parts, "en", sum(speech for _, speech in polled))
    assert found == pytest.approx(expected)


def test_languages_that_sound_alike_are_not_split() -> None:
    polled = [Voter(chunk(0.0), 10.0), Voter(chunk(10.0), 10.0)]
    assert split([{"hr": 0.9}, {"sr": 0.9}], polled, "hr", 20.0) == {}
    assert split([{"no": 0.9}, {"nn": 0.9}], polled, "nn", 20.0) == {}
    assert set(split([{"no": 0.9}, {"sv": 0.9}], polled, "no", 20.0)) == {"no", "sv"}


def test_uncertain_chunks_are_polled_again_in_parts() -> None:
    long = Chunk(0.0, 25.0, ((0.0, 10.0), (12.0, 22.0)))
    polled = [Voter(long, 40.0), Voter(chunk(30.0), 10.0), Voter(chunk(60.0, 20.0), 20.0)]
    parts = parts_of_uncertain([MIXED, MIXED, GERMAN], polled)
    assert [(part.chunk.start, part.chunk.end, part.weight) for part in parts] == [
        (0.0, 10.0, 20.0),
        (12.0, 22.0, 20.0),
    ]
    assert parts_of_uncertain([GERMAN, ENGLISH, GERMAN], polled) == []
    regions = tuple((float(start), start + 3.0) for start in range(0, 100, 5))
    assert len(parts_of_uncertain([MIXED], [Voter(Chunk(0.0, 98.0, regions), 60.0)])) == 8
