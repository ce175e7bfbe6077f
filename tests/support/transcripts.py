"""Transcripts for tests: handwritten, generated and hostile ones, and the text a reader should see."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from hypothesis import strategies as st

from daemon.outputs.markdown import clock
from daemon.schema.transcript import Models, Segment, Transcript, TranscriptWarning, Word


def transcript(*segments: Segment, warnings: tuple[TranscriptWarning, ...] = ()) -> Transcript:
    return Transcript(
        schema_version="1.0",
        job_id="job-1",
        task="transcribe",
        language="en",
        language_probability=0.98765,
        language_probabilities={"en": 0.98765},
        start_seconds=0,
        duration_seconds=12.34567,
        speakers=sorted({segment.speaker for segment in segments if segment.speaker}),
        speaker_embeddings=None,
        segments=list(segments),
        models=Models(
            asr="large-v3", vad="pyannote", alignment=None, diarization=None, device="cpu", compute_type="int8"
        ),
        timings_seconds={"asr": 1.23456},
        redactions={},
        warnings=list(warnings),
    )


def segment(
    text: str, start: float = 0, end: float = 5, speaker: str | None = None, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(
        start=start,
        end=end,
        text=text,
        speaker=speaker,
        overlap=None,
        confidence=None,
        language="en",
        avg_logprob=None,
        words=list(words),
    )


def in_language(language: str, document: Transcript) -> Transcript:
    """Return the transcript as spoken in one language."""
    return in_languages([language] * len(document.segments), document).model_copy(update={"language": language})


def in_languages(languages: Sequence[str], document: Transcript) -> Transcript:
    """Return the transcript with the languages of its segments. The recording keeps its own."""
    segments = [
        one.model_copy(update={"language": language})
        for one, language in zip(document.segments, languages, strict=True)
    ]
    return document.model_copy(update={"segments": segments})


def word(text: str, start: float = 0, speaker: str | None = None) -> Word:
    return Word(word=text, start=start, end=start + 0.5, score=None, speaker=speaker, overlap=None)


HOSTILE = [
    *"\\`*_{}[]()<>#+-.!|~&=:;\"'$^@/\n\r\t\0\x0b\x1f\x7f\x85\u2028\u2029\u00a0\ufeff 019azé漢²١",
    *("# ", "- ", "1. ", "1) ", "123456789. ", "1234567890. ", "> ", "---", "===", "***", "* * *", "```", "~~~", "~~"),
    *("**", "__", "](", "![", "[a](b)", "[a]: b", "[^1]: ", "[ ] ", "<b>", "</p>", "<!--", "<?", "<http://a.b>"),
    *("&amp;", "&#35;", "&#x23;", "&copy", "AT&T", "    ", "  \n", "\\\n", "SPEAKER_00", "|-|", "it's", "snake_case_"),
]
# Removed from every output: test_outputs.py tests that.
DIRECTION_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CHARACTERS = st.characters(codec="utf-8", exclude_characters=DIRECTION_CONTROLS)
TEXTS = st.lists(st.sampled_from(HOSTILE) | CHARACTERS, max_size=8).map("".join)
SPEAKERS = st.none() | st.sampled_from(["SPEAKER_00", "SPEAKER_01"]) | TEXTS
TIMES = st.floats(0, 400_000, allow_nan=False)
SCORES = st.none() | st.floats(-10, 1)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    speakers = draw(st.sampled_from([SPEAKERS, st.none()]))
    words = st.builds(Word, word=TEXTS, start=TIMES, end=TIMES, score=SCORES, speaker=speakers)
    segments = st.builds(
        Segment,
        start=TIMES,
        end=TIMES,
        text=TEXTS,
        speaker=speakers,
        confidence=st.none() | st.floats(0, 1),
        avg_logprob=SCORES,
        words=st.lists(words, max_size=3),
    )
    warnings = st.builds(TranscriptWarning, code=TEXTS, stage=TEXTS, message=TEXTS)
    return draw(
        st.builds(
            Transcript,
            schema_version=st.just("1.0"),
            job_id=TEXTS,
            language_probability=SCORES,
            speakers=st.lists(TEXTS, max_size=2),
            speaker_embeddings=st.none() | st.dictionaries(TEXTS, st.lists(st.floats(-1, 1), max_size=3), max_size=2),
            language_probabilities=st.dictionaries(TEXTS, st.floats(0, 1), max_size=2),
            segments=st.lists(segments, max_size=3),
            start_seconds=TIMES,
            duration_seconds=TIMES,
            timings_seconds=st.dictionaries(TEXTS, TIMES, max_size=2),
            warnings=st.lists(warnings, max_size=2),
        )
    )


def plain(text: str) -> str:
    """Return the text a reader should see: an independent implementation of the cleaning rule."""
    visible = "".join(
        " " if char in "\x7f\u2028\u2029" or ord(char) < 32 or 0x80 <= ord(char) < 0xA0 else char for char in text
    )
    return " ".join(visible.split())


def expected_blocks(document: Transcript) -> Iterator[tuple[str, str]]:
    diarized = any(s.speaker or any(w.speaker for w in s.words) for s in document.segments)

    def name(speaker: str | None) -> str:
        return plain(speaker or "") or "UNKNOWN"

    yield "h1", "Full Transcript"
    spoken = [s for s in document.segments if plain(s.text)]
    if not spoken:
        yield "p", "<em>No speech was found.</em>"
    elif diarized:
        for speaker, turn in groupby(spoken, key=lambda s: s.speaker):
            yield "p", f"<strong>{name(speaker)}:</strong> " + " ".join(plain(s.text) for s in turn)
    else:
        paragraph = ""
        for previous, s in zip([None, *spoken], spoken, strict=False):
            if previous and s.start - previous.end >= 2:
                yield "p", paragraph
                paragraph = ""
            paragraph = f"{paragraph} {plain(s.text)}".strip()
        yield "p", paragraph
    yield "h1", "Timestamped Transcript"
    if not document.segments:
        yield "p", "<em>No speech was found.</em>"
    for number, s in enumerate(document.segments, 1):
        yield (
            "h2",
            f"Segment {number}: [{clock(s.start)} - {clock(s.end)}]" + (f" ({name(s.speaker)})" if diarized else ""),
        )
        if plain(s.text):
            yield "p", plain(s.text)
        words = [w for w in s.words if plain(w.word)]
        if words:
            yield "h3", "Word-level timestamps"
        for speaker, group in groupby(words, key=lambda w: w.speaker or s.speaker):
            if diarized:
                yield "p", f"<strong>{name(speaker)}:</strong>"
            yield from (("li", f"{plain(w.word)} @ {clock(w.start)}") for w in group)
    if document.warnings:
        yield "h1", "Notes"
        yield from (("li", f"{plain(w.code)}: {plain(w.message)}".strip()) for w in document.warnings)
