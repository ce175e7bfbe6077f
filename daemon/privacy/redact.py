"""Removes findings from a transcript, consistently in text and words, and therefore in every output."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from daemon.privacy.detect import PROFANITY, Finding, find, find_words
from daemon.schema.options import PersonalData
from daemon.schema.transcript import Segment, Transcript, Word

# A slowly read number can span several segments, so segments without a longer pause are searched as one text.
PASSAGE_PAUSE_SECONDS = 5.0


def protect(transcript: Transcript, kinds: Sequence[PersonalData], unwanted_words: Sequence[str]) -> Transcript:
    """Return the transcript with personal data replaced by `[EMAIL]`, `[PHONE]` … and unwanted words by `d***`.

    Its `redactions` count the findings by kind, with those of earlier calls. One word replaces each finding and keeps its times.
    """
    counts = Counter(transcript.redactions)
    segments: list[Segment] = []
    for passage in _passages(transcript.segments):
        text = " ".join(segment.text for segment in passage)
        findings = find(text, kinds, transcript.language)
        taken = [(finding.start, finding.end) for finding in findings]
        findings += [
            word
            for word in find_words(text, unwanted_words)
            if not any(start < word.end and word.start < end for start, end in taken)
        ]
        findings.sort(key=lambda finding: finding.start)
        counts.update(finding.kind for finding in findings)
        offset = 0
        for segment in passage:
            here = [
                Finding(each.kind, max(0, each.start - offset), min(len(segment.text), each.end - offset))
                for each in findings
                if each.start < offset + len(segment.text) and each.end > offset
            ]
            segments.append(_without(segment, here) if here else segment)
            offset += len(segment.text) + 1
    return transcript.model_copy(update={"segments": segments, "redactions": dict(sorted(counts.items()))})


def _passages(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Group consecutive segments of one speaker without a long pause."""
    passage = list(segments[:1])
    for before, after in pairwise(segments):
        if after.speaker != before.speaker or after.start - before.end > PASSAGE_PAUSE_SECONDS:
            yield passage
            passage = []
        passage.append(after)
    if passage:
        yield passage


def _without(segment: Segment, findings: Sequence[Finding]) -> Segment:
    text = segment.text
    for finding in reversed(findings):
        text = text[: finding.start] + _instead(segment.text, finding) + text[finding.end :]
    return segment.model_copy(update={"text": text, "words": _words_without(segment, findings)})


def _instead(text: str, finding: Finding) -> str:
    if finding.kind == PROFANITY:
        return text[finding.start] + "*" * (finding.end - finding.start - 1)
    return f"[{finding.kind.upper()}]"


def _words_without(segment: Segment, findings: Sequence[Finding]) -> list[Word]:
    """Return the words with each finding as one word; no words if they do not match the text, because any could leak."""
    placed = _placed(segment)
    if placed is None:
        return []
    words: list[Word] = []
    rest = list(findings)
    index = 0
    while index < len(placed):
        word, start, end = placed[index]
        index += 1
        touched = []
        while rest and rest[0].start < end:
            touched.append(rest.pop(0))
            while index < len(placed) and placed[index][1] < touched[-1].end:
                last, _, end = placed[index]
                word = word.model_copy(update={"end": last.end})
                index += 1
        if touched:
            spoken = segment.text[start:end]
            for finding in reversed(touched):
                replaced = _instead(segment.text, finding)
                spoken = spoken[: max(0, finding.start - start)] + replaced + spoken[finding.end - start :]
            word = word.model_copy(update={"word": spoken, "score": None})
        words.append(word)
    return words


def _placed(segment: Segment) -> list[tuple[Word, int, int]] | None:
    """Return each word with its position in the text; None if words and text do not match."""
    placed = []
    cursor = 0
    for word in segment.words:
        start = segment.text.find(word.word, cursor)
        if start < 0 or segment.text[cursor:start].strip():
            return None
        cursor = start + len(word.word)
        placed.append((word, start, cursor))
    return placed if not segment.text[cursor:].strip() else None
