"""Our CTC aligner compared with whisperx's on the same emissions, and batches compared with single passages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.reference import sample_audio
from daemon.errors import Interrupted
from daemon.pipeline.alignment import ctc
from daemon.pipeline.alignment.ctc import WILDCARD, find_path
from daemon.pipeline.types import SAMPLE_RATE, Chunk, Passage
from daemon.schema.transcript import Transcript
from tests.support.pipeline import Recorder, loaded, make_wav2vec2, options, transcribe
from tests.support.words import assert_settled

if TYPE_CHECKING:  # torch is imported by the pipeline, which sets its environment up first
    from daemon.pipeline.alignment.wav2vec2 import Aligner

SPAN = slice(16_000, 96_000)  # 5 s of the call


@pytest.fixture(scope="module")
def stages() -> Any:
    return loaded()[0]._stages


def make_aligner(stages: Any, factory: pytest.TempPathFactory, **changes: Any) -> "Aligner":
    import torch

    from daemon.pipeline.alignment.wav2vec2 import Aligners

    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder = make_wav2vec2(factory.mktemp("wav2vec2"), **changes)
    return Aligners((f"en={folder}",), stages.device).get("en", required=False)


@pytest.fixture(scope="module")
def group_norm(stages: Any, tmp_path_factory: pytest.TempPathFactory) -> "Aligner":
    return make_aligner(stages, tmp_path_factory)


@pytest.fixture(scope="module")
def layer_norm(stages: Any, tmp_path_factory: pytest.TempPathFactory) -> "Aligner":
    changes = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    return make_aligner(stages, tmp_path_factory, **changes)


def with_language(aligner: "Aligner", language: str) -> "Aligner":
    return replace(aligner, metadata={**aligner.metadata, "language": language})


def emissions(aligner: "Aligner", spans: Sequence[np.ndarray]) -> list[np.ndarray]:
    from daemon.pipeline.alignment.emissions import log_probabilities

    return log_probabilities(aligner.model, "cpu", spans)


# --- paths --------------------------------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(axis=1, keepdims=True)
    log_probs: np.ndarray = logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    return log_probs


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """Generate emissions from flat to certain, some with many ties, and tokens with repeats and wildcards, some too
    many."""
    frames, vocabulary = draw(st.integers(1, 60)), draw(st.integers(2, 12))
    blank = draw(st.integers(0, vocabulary - 1))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.0, 0.01, 1.0, 5.0, 50.0]))
    if draw(st.booleans()):
        log_probs = log_softmax(random.normal(scale=sharpness, size=(frames, vocabulary)).astype(np.float32))
    else:
        log_probs = -random.integers(0, 4, size=(frames, vocabulary)).astype(np.float32)
    token = st.integers(0, vocabulary - 1).filter(lambda token: token != blank) | st.just(WILDCARD)
    tokens = draw(st.lists(token, min_size=1, max_size=frames + 3))
    return log_probs, tokens, blank


def assert_whisperx_path(log_probs: np.ndarray, tokens: Sequence[int], blank: int) -> None:
    """Assert that the path is the one of whisperx.align, including its wildcard column."""
    import torch
    from whisperx.alignment import backtrack, get_trellis, merge_repeats

    emission = torch.from_numpy(log_probs)
    others = [column for column in range(log_probs.shape[1]) if column != blank]
    emission = torch.cat([emission, emission[:, others].max(dim=1, keepdim=True).values], dim=1)
    columns = [token % emission.shape[1] for token in tokens]
    frames = backtrack(get_trellis(emission, columns, blank), emission, columns, blank)
    path = find_path(log_probs, tokens, blank)
    if frames is None:
        assert path is None
        return
    assert path is not None
    expected = merge_repeats(frames, "?" * len(tokens))
    assert path.starts.tolist() == [segment.start for segment in expected]
    assert path.ends.tolist() == [segment.end for segment in expected]
    assert path.scores == pytest.approx([segment.score for segment in expected], abs=1e-6)


@pytest.mark.usefixtures("stages")
@given(problems())
@settings(deadline=None, max_examples=300)
def test_path_is_that_of_whisperx(problem: tuple[np.ndarray, list[int], int]) -> None:
    assert_whisperx_path(*problem)


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("sharpness", [0.01, 2, 20])
def test_30_seconds_match_whisperx_bit_for_bit(sharpness: float) -> None:
    """Long enough for sums to diverge if they were added in a different order."""
    import torch
    from whisperx.alignment import get_trellis

    random = np.random.default_rng(7)
    log_probs = log_softmax(random.normal(scale=sharpness, size=(1499, 32)).astype(np.float32))
    tokens = random.integers(1, 32, 450).tolist()
    assert_whisperx_path(log_probs, tokens, 0)
    theirs = get_trellis(torch.from_numpy(log_probs), tokens).numpy()
    reachable = theirs < np.inf  # whisperx's marker for a path that can no longer end in time
    assert np.array_equal(ctc._trellis(log_probs[:, 0], log_probs[:, tokens])[reachable], theirs[reachable])


# --- words --------------------------------------------------------------------------------------------------------

SPOKEN = st.lists(
    st.sampled_from(
        [
            " hello",
            " it's",
            " 1984",
            " 5 %",
            " Ärger",
            " İ",
            "-mail",
            ",",
            "?",
            " …",
            " you",
            "你",
            "好",
            "。",
            " ",
            "  ",
        ]
    ),
    min_size=1,
    max_size=12,
).map("".join)


def whisperx_words(aligner: "Aligner", text: str, audio: np.ndarray, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    from whisperx import alignment

    class OneSentence:
        """Replaces nltk's splitter, which whisperx would download."""

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    patch.setattr(alignment, "nltk_load", lambda _: OneSentence())
    segment = {"text": text, "start": 0.0, "end": len(audio) / SAMPLE_RATE}
    found: list[dict[str, Any]] = alignment.align(
        [segment], aligner.model, aligner.metadata, np.array(audio), aligner.device
    )["word_segments"]
    return found


@given(SPOKEN.map(lambda text: text.replace("İ", "I")), st.sampled_from(["en", "ja"]))
@settings(deadline=None, max_examples=40)
def test_words_are_those_of_whisperx(group_norm: "Aligner", text: str, language: str) -> None:
    aligner = with_language(group_norm, language)
    audio = sample_audio()[SPAN]
    with pytest.MonkeyPatch.context() as patch:
        expected = whisperx_words(aligner, text, audio, patch)
    [log_probs] = emissions(aligner, [audio])
    tokens = aligner.align_tokens(text, log_probs, len(audio) / SAMPLE_RATE, 0.0)
    assert [token.text.strip() for token in tokens] == [word["word"] for word in expected]
    half_a_millisecond, rounding = 0.0005 + 1e-9, 0.001 + 1e-9  # whisperx rounds, and rounds scores twice
    for token, word in zip(tokens, expected, strict=True):
        assert token.start == pytest.approx(word["start"], abs=half_a_millisecond)
        assert token.end == pytest.approx(word["end"], abs=half_a_millisecond)
        assert token.score == pytest.approx(word["score"], abs=rounding)


def test_letter_with_two_lower_case_characters_shifts_nothing(group_norm: "Aligner") -> None:
    """Turkish İ, which shifts all later times of whisperx by one character."""
    [log_probs] = emissions(group_norm, [sample_audio()[SPAN]])
    dotted, plain = (group_norm.align_tokens(f" {letter}stanbul is big", log_probs, 5.0, 0.0) for letter in "İI")
    assert [(it.start, it.end, it.score) for it in dotted] == [(it.start, it.end, it.score) for it in plain]


def test_languages_without_spaces_have_words(group_norm: "Aligner") -> None:
    """Also those for which whisperx has no model and treats each passage as one word."""
    thai = with_language(group_norm, "th")
    [log_probs] = emissions(thai, [sample_audio()[SPAN]])
    tokens = thai.align_tokens(" สวย จัง", log_probs, 5.0, 0.0)
    assert [token.text for token in tokens] == [" ส", "ว", "ย", " จ", "ั", "ง"]
    assert all(token.times for token in tokens)


def test_any_white_space_separates_words(group_norm: "Aligner") -> None:
    [log_probs] = emissions(group_norm, [sample_audio()[SPAN]])
    tokens = group_norm.align_tokens(" 10\u00a0000 €\n yes ", log_probs, 5.0, 0.0)
    assert [token.text for token in tokens] == [" 10", "\u00a0000", " €", "\n yes "]
    assert all(token.times for token in tokens)


# --- batches ------------------------------------------------------------------------------------------------------

SPANS = [(0.0, 5.0), (5.0, 8.1), (8.1, 8.11), (9.0, 14.0), (14.0, 18.7)]  # seconds; one is shorter than a frame


def spans() -> list[np.ndarray]:
    return [sample_audio()[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] for start, end in SPANS]


def passages() -> list[Passage]:
    texts = [" hello there", " yes it's me", " a", " in 1984", " goodbye"]
    return [
        Passage(Chunk(start, end, ((start, end),)), text, None, language="en")
        for (start, end), text in zip(SPANS, texts, strict=True)
    ]


def test_padded_batch_matches_single_spans(layer_norm: "Aligner") -> None:
    assert len(layer_norm.batches(passages(), 5)) < len(SPANS)
    for together, span in zip(emissions(layer_norm, spans()), spans(), strict=True):
        [alone] = emissions(layer_norm, [span])
        assert together.shape == alone.shape
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_model_with_group_norm_gets_one_span_at_a_time(group_norm: "Aligner") -> None:
    assert [len(batch) for batch in group_norm.batches(passages(), 4)] == [1] * len(SPANS)
    # The reason: padding next to the second span changes its result.
    padded = emissions(group_norm, spans()[:2])[1]
    [alone] = emissions(group_norm, spans()[1:2])
    assert np.abs(padded - alone).max() > 1e-3


def test_torchaudio_model_gets_one_span_at_a_time(stages: Any) -> None:
    import torch
    import torchaudio

    from daemon.pipeline.alignment.wav2vec2 import Aligner

    model: torch.nn.Module = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2],
        extractor_conv_bias=False,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=2,
        encoder_num_layers=1,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=29,
    ).eval()
    dictionary = {char: index for index, char in enumerate("-|etaoinshrdlumwcfgypbvk'xjqz")}
    aligner = Aligner("t", "cpu", model, {"language": "en", "dictionary": dictionary, "type": "torchaudio"})
    batches = aligner.batches(passages(), 4)
    assert [len(batch) for batch in batches] == [1] * len(SPANS)
    for batch in batches:
        [words] = aligner.align(batch, sample_audio())
        assert_settled(words, batch[0].text, batch[0].chunk)


def test_batches_have_similar_lengths_and_the_longest_comes_first(stages: Any) -> None:
    from daemon.pipeline.alignment.emissions import batches

    assert list(batches([3, 30, 28, 29, 2, 16], 2)) == [[1, 3], [2, 5], [0, 4]]
    assert list(batches([10, 3, 20], 4)) == [[2, 0], [1]]
    assert list(batches([], 4)) == []


def test_each_passage_of_a_batch_has_its_own_words(layer_norm: "Aligner") -> None:
    for batch in layer_norm.batches(passages(), 3):
        for passage, words in zip(batch, layer_norm.align(batch, sample_audio()), strict=True):
            assert_settled(words, passage.text, passage.chunk)


# --- a whole job --------------------------------------------------------------------------------------------------


def call() -> np.ndarray:
    """15 s of the call, which take more than one batch of 3 s chunks."""
    return sample_audio()[: 15 * SAMPLE_RATE]


def words_of(transcript: Transcript) -> list[str]:
    return [word.word for segment in transcript.segments for word in segment.words]


@pytest.fixture
def in_batches(stages: Any, layer_norm: "Aligner", monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Align in batches of 4, one at a time, as on a GPU, and return the sizes of the batches so far."""
    from daemon.pipeline.alignment.wav2vec2 import Aligner
    from daemon.pipeline.runtime.worker_pool import WorkerPool

    align = Aligner.align
    sizes: list[int] = []

    def counted(self: Aligner, passages: Sequence[Passage], audio: np.ndarray) -> Any:
        words = align(self, passages, audio)
        sizes.append(len(passages))
        return words

    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 3)
    monkeypatch.setattr(stages, "lanes", WorkerPool(1))
    monkeypatch.setattr(Aligner, "batch_size", 4)
    monkeypatch.setattr(Aligner, "align", counted)
    monkeypatch.setitem(stages.aligners._loaded, "en", layer_norm)
    return sizes


def test_less_memory_means_smaller_batches(in_batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from daemon.pipeline.alignment.emissions import log_probabilities

    def tight(model: Any, device: str, spans: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(spans) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return log_probabilities(model, device, spans)

    job = options(align="wav2vec2", diarize=False)
    whole = transcribe(loaded()[0], "whole", call(), job)
    assert max(in_batches) > 1
    aligned = sum(in_batches)
    in_batches.clear()
    monkeypatch.setattr("daemon.pipeline.alignment.wav2vec2.log_probabilities", tight)
    transcript = transcribe(loaded()[0], "tight", call(), job)
    assert in_batches == [1] * aligned
    assert [(warning.code, warning.stage) for warning in transcript.warnings] == [("batch_reduced", "align")]
    assert "batch size 1" in transcript.warnings[0].message
    assert transcript.models.alignment == whole.models.alignment != "attention"
    assert words_of(transcript) == words_of(whole)


def test_every_batch_reports_progress_and_checks_for_cancellation(in_batches: list[int]) -> None:
    job = options(align="wav2vec2", diarize=False)
    recorder = Recorder()
    transcribe(loaded()[0], "told", call(), job, recorder)
    fractions = [fraction for stage, fraction in recorder.fractions if stage == "align"]
    assert fractions == sorted(fractions)
    batches = len(in_batches)
    assert len(set(fractions)) >= batches > 1

    class GivesUp(Recorder):
        def check_cancelled(self) -> None:
            if len(in_batches) == batches - 1:
                raise Interrupted("the test gave the job up")

    in_batches.clear()
    with pytest.raises(Interrupted):
        transcribe(loaded()[0], "given up", call(), job, GivesUp())
    assert len(in_batches) == batches - 1
