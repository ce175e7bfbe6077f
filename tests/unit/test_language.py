"""The vote on a recording's language, and what it takes for a chunk to have one of its own."""

import pytest

from daemon.pipeline.language import Voter, chunk_language, cut_at_pauses, vote, voters
from daemon.pipeline.pieces import Chunk


def chunk(start: float, speech: float = 10.0, *, doubtful: bool = False) -> Chunk:
    return Chunk(start, start + speech, ((start, start + speech),), doubtful)


def test_all_chunks_of_a_short_recording_vote_with_their_speech() -> None:
    pauses = Chunk(30.0, 50.0, ((30.0, 34.0), (48.0, 50.0)))
    assert voters([chunk(0.0), pauses]) == [Voter(chunk(0.0), 10.0), Voter(pauses, 6.0)]
    assert voters([]) == []


def test_a_long_recording_is_polled_from_end_to_end() -> None:
    chunks = [chunk(start, 20.0 + start % 7) for start in range(0, 7200, 30)]
    polled = voters(chunks, limit=8)
    assert len(polled) == 8
    starts = [voter.chunk.start for voter in polled]
    assert starts == sorted(starts)
    assert all(900 * index <= start < 900 * (index + 1) + 60 for index, start in enumerate(starts))
    assert sum(voter.weight for voter in polled) == pytest.approx(sum(it.speech_seconds for it in chunks))
    assert min(voter.chunk.speech_seconds for voter in polled) > 24  # the fullest of its share


def test_the_vote_is_weighted_by_speech() -> None:
    english, german = {"en": 0.9, "de": 0.1}, {"en": 0.2, "de": 0.8}
    assert vote([(english, 10.0), (german, 10.0)]).language == "en"
    found = vote([(english, 10.0), (german, 30.0)])
    assert found.language == "de"
    assert found.probability == pytest.approx(0.625)
    assert found.probabilities == {"de": pytest.approx(0.625), "en": pytest.approx(0.375)}
    assert list(found.probabilities) == ["de", "en"]


def test_only_the_likeliest_are_reported() -> None:
    ballot = dict.fromkeys("af am ar as az ba be bg bn bo".split(), 0.1)
    assert len(vote([(ballot, 1.0)]).probabilities) == 5


@pytest.mark.parametrize(
    ("ballot", "speech", "expected"),
    [
        ({"de": 0.9, "en": 0.1}, 10.0, "de"),
        ({"de": 0.6, "en": 0.4}, 10.0, "en"),  # likelier, but not convincing
        ({"de": 0.99, "en": 0.01}, 1.0, "en"),  # too short to be told by
        ({"en": 0.3, "nn": 0.2}, 10.0, "en"),
    ],
)
def test_a_chunk_switches_only_where_it_convinces(ballot: dict[str, float], speech: float, expected: str) -> None:
    assert chunk_language(ballot, chunk(0.0, speech), "en") == expected


def test_chunks_are_cut_at_pauses_with_enough_speech_on_either_side() -> None:
    regions = ((0.0, 1.0), (2.0, 5.0), (5.5, 8.0), (9.0, 14.0), (15.0, 15.5))
    cut = cut_at_pauses([Chunk(0.0, 15.5, regions, doubtful=True), Chunk(20.0, 21.0, ((20.0, 21.0),))])
    assert [(part.start, part.end) for part in cut] == [(0.0, 8.0), (9.0, 15.5), (20.0, 21.0)]
    assert [region for part in cut[:2] for region in part.regions] == list(regions)
    assert [part.doubtful for part in cut] == [True, True, False]
