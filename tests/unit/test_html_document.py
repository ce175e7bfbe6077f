"""The HTML document: a parser reads back exactly the text, and no markup but ours."""

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.outputs import Presentation, render
from daemon.outputs.html_document import SCRIPT, STYLE
from daemon.outputs.text import clean
from daemon.schema.transcript import Segment, Transcript, TranscriptWarning, Word
from tests.support.transcripts import TEXTS, segment, transcript, transcripts

ROOT = Path(__file__).parents[2]

# Every element that the page may contain, with every attribute it may have.
VOCABULARY = {
    **dict.fromkeys("head title style body header h1 dl dt dd ul bdi code details summary kbd br".split(), frozenset()),
    **{"html": {"lang"}, "main": {"id", "lang"}, "meta": {"charset", "content", "http-equiv", "name"}},
    **{"div": {"id", "hidden", "role", "class"}, "section": {"id", "aria-label", "class"}, "h2": {"id"}},
    **{"p": {"dir", "lang", "class", "id", "hidden"}, "a": {"href", "tabindex"}, "u": set(), "li": {"class"}},
    **{"span": {"class", "aria-hidden", "id", "role", "dir"}, "aside": {"aria-labelledby"}, "script": {"type", "id"}},
    **{"audio": {"id", "aria-label", "controls", "preload", "src", "hidden"}, "label": set(), "output": {"id", "for"}},
    **{"button": {"type", "id", "aria-label", "disabled", "hidden"}, "details": {"id", "hidden"}},
    "input": {"type", "id", "checked", "accept", "aria-label", "placeholder", "autocomplete"},
}
ONCE = ("html", "head", "title", "style", "body", "header", "h1", "audio", "main", "dl")


class Page(HTMLParser):
    """A parsed page: elements in order with their attributes, the text of each, and the words."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in ("meta", "input", "br"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.texts[index] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def all(self, tag: str, **attributes: str | None) -> list[str]:
        """Return the texts of the elements with the tag that have the attributes."""
        wanted = attributes.items()
        return [
            text
            for (name, found), text in zip(self.elements, self.texts, strict=True)
            if name == tag and wanted <= found.items()
        ]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag]

    def words(self) -> list[tuple[str, str]]:
        """Return tag and text of each word, in order."""
        begin = next(index for index, (tag, _) in enumerate(self.elements) if tag == "main")
        return [
            (tag, text)
            for (tag, found), text in list(zip(self.elements, self.texts, strict=True))[begin:]
            if tag in ("span", "u") and not found
        ]

    def times(self) -> list[tuple[float, float]]:
        """Return start and end of each word in milliseconds, decoded as in the script."""
        numbers = json.loads(self.all("script", type="application/json")[0])
        starts = list(accumulate(numbers[::2]))
        return [(start, start + length) for start, length in zip(starts, numbers[1::2], strict=True)]


def page(document: Transcript, audio_url: str | None = None) -> Page:
    return Page(render(document, ["html"], Presentation(audio_url=audio_url))[0].body.decode())


def paragraphs(found: Page) -> str:
    return " ".join(found.all("p", dir="auto"))


@given(transcripts())
@settings(max_examples=150, deadline=None)
def test_text_round_trips_and_adds_no_markup(document: Transcript) -> None:
    found = page(document)
    for tag, attributes in found.elements:
        assert set(attributes) <= VOCABULARY[tag], tag
    assert all(len(found.all(tag)) == 1 for tag in ONCE)
    assert len(found.all("meta")) == 5
    assert found.all("script")[1] == SCRIPT
    assert paragraphs(found) == " ".join(text for said in document.segments if (text := clean(said.text)))
    assert len(found.words()) == len(found.times())
    assert found.all("title") == [f"Transcript of {clean(document.job_id)}"]
    assert found.all("code") == [clean(warning.code) for warning in document.warnings]
    labels = filter(None, [*document.speakers, *(said.speaker for said in document.segments)])
    names = [f"{number}{clean(label) or 'UNKNOWN'}" for number, label in enumerate(dict.fromkeys(labels), 1)]
    assert found.all("li")[: len(names)] == names


@given(TEXTS)
def test_the_language_stays_in_its_attribute(language: str) -> None:
    found = page(transcript().model_copy(update={"language": language}))
    assert found.attributes("main") == [{"id": "transcript", "lang": clean(language)}]


URLS = st.text("abcXYZ019-._~:/?#[]@!$&'()*+,;=%", min_size=1)


@given(URLS)
def test_the_audio_url_stays_in_its_attribute(url: str) -> None:
    assert page(transcript(), url).attributes("audio")[0]["src"] == url


@pytest.mark.parametrize(
    ("audio_url", "media"),
    [(None, "blob:"), ("https://a.example/b?c&d", "'self' https: blob:"), ("b.wav", "'self' https: blob:")],
)
def test_policy_allows_only_our_script_and_style(audio_url: str | None, media: str) -> None:
    found = page(transcript(), audio_url)
    policy = next(meta["content"] for meta in found.attributes("meta") if "http-equiv" in meta)
    assert policy is not None
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": f"'sha256-{_sha256(found.all('script')[1])}'",
        "style-src": f"'sha256-{_sha256(found.all('style')[0])}'",
        "media-src": media,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    tags = [tag for tag, _ in found.elements]
    assert tags[2:4] == ["meta", "meta"], "the policy must precede everything it governs"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@pytest.mark.parametrize("asset", [SCRIPT, STYLE])
def test_script_and_style_cannot_end_early(asset: str) -> None:
    assert not [end for end in ("</", "<!--", "\r", "\0") if end in asset]


def test_words_are_marked_in_place() -> None:
    words = (
        Word(word="Well,", start=1, end=1.25, score=0.9, speaker=None, overlap=None),
        Word(word="missing", start=1.25, end=1.5, score=0.9, speaker=None, overlap=None),
        Word(word="<b>", start=1.5, end=1.75, score=0.49, speaker=None, overlap=None),
        Word(word="it's", start=0.5, end=0.625, score=None, speaker=None, overlap=None),
    )
    found = page(transcript(segment(" Well, – <b> & it's  14", 1, 2, words=words)))
    assert paragraphs(found) == "Well, – <b> & it's 14"
    assert found.words() == [("span", "Well,"), ("u", "<b>"), ("span", "it's")]
    assert found.times() == [(1000, 1250), (1500, 1750), (500, 625)]


def test_languages_without_spaces_get_none() -> None:
    words = tuple(Word(word=sign, start=0, end=1, score=None, speaker=None, overlap=None) for sign in "你好吗")
    assert paragraphs(page(transcript(segment("你好吗?", words=words)))) == "你好吗?"


def test_segment_without_words_is_one_word() -> None:
    found = page(transcript(segment("No word has a time.", 3, 4)))
    assert (found.words(), found.times()) == ([("span", "No word has a time.")], [(3000, 4000)])


def test_times_link_to_the_recording() -> None:
    found = page(transcript(segment("a", 3661.25, 3662)))
    assert found.all("a") == ["01:01:01"]
    assert found.attributes("a") == [{"href": "#t=3661.250", "tabindex": "-1"}]


def test_paragraph_ends_at_a_speaker_change_a_pause_or_a_length() -> None:
    said = (
        segment("a", 0, 1, "A"),
        segment("b", 1, 2, "A"),
        segment("c", 4, 5, "A"),
        segment("d", 5, 6, "B"),
        segment("e", 6, 30, "B"),
        segment("f", 30, 52, "B"),
    )
    found = page(transcript(*said))
    assert found.all("p", dir="auto") == ["a b", "c", "d e", "f"]
    assert found.all("h2") == ["1A", "2B"]


def test_many_speakers_differ_by_more_than_colour() -> None:
    names = [f"SPEAKER_{number:02}" for number in range(20)]
    found = page(transcript(*(segment("a", speaker=name) for name in names)))
    looks = [attributes["class"] for attributes in found.attributes("section")[1:]]
    assert len(set(looks)) == len(names)
    assert found.all("h2") == [f"{number}{name}" for number, name in enumerate(names, 1)]
    assert not [look for look in set(" ".join(map(str, looks)).split()) - {"turn"} if f".{look} " not in STYLE]


def test_words_without_a_speaker_get_no_name() -> None:
    found = page(transcript(segment("a", speaker="A"), segment("b")))
    assert found.all("h2") == ["1A", "?UNKNOWN"]
    assert page(transcript(segment("a"))).all("h2") == []


@pytest.mark.parametrize(
    ("task", "language", "attribute"),
    [("transcribe", "de", "de"), ("transcribe", "jw", "jv"), ("transcribe", None, ""), ("translate", "de", "en")],
)
def test_text_has_its_language(task: str, language: str | None, attribute: str) -> None:
    document = transcript().model_copy(update={"task": task, "language": language})
    assert page(document).attributes("main")[0]["lang"] == attribute


def test_silence_and_warnings_are_shown() -> None:
    warning = TranscriptWarning(code="diarization_failed", stage="diarize", message="no <speakers>")
    found = page(transcript(warnings=(warning,)))
    assert "No speech was found." in found.all("main")[0]
    assert "diarization_failed no <speakers>" in found.all("aside")[0]
    assert not page(transcript()).all("aside")


def test_uncertain_words_have_a_legend_if_there_are_any() -> None:
    sure = Segment(
        start=0,
        end=1,
        text="a",
        speaker=None,
        avg_logprob=None,
        words=[_word(0.5)],
        overlap=None,
        confidence=None,
        language="en",
    )
    unsure = sure.model_copy(update={"words": [_word(0.4999)]})
    assert page(transcript(sure)).all("u") == []
    assert page(transcript(unsure)).all("p", **{"class": "legend"}) != []


def _word(score: float) -> Word:
    return Word(word="a", start=0, end=1, score=score, speaker=None, overlap=None)


def test_wheel_contains_script_and_style(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"daemon/outputs/html/transcript.css", "daemon/outputs/html/transcript.js"} <= set(names)
