"""The documentation matches the code: names, links, anchors and snippets."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

from daemon.__main__ import main
from daemon.config import Settings, variable
from daemon.errors import all_errors
from daemon.jobs.validation import parse_job
from tests.support.builders import some_settings

ROOT = Path(__file__).parents[2]


# --- pages ----------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    line: int
    language: str
    text: str


def paths(*patterns: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern))


# The changelog also names what was renamed or removed.
PAGES = paths("README.md", "CONTRIBUTING.md", "docs/**/*.md", "deploy/**/*.md")
LINKING_PAGES = sorted([*PAGES, *paths("CHANGELOG.md")])

# A block labelled with an alias would not be checked.
ALIASES = {"bash": "sh", "shell": "sh", "console": "sh", "py": "python"}

FENCE = re.compile(r"(?m)^(?P<indent> *)```(?P<language>\S*).*\n(?P<text>(?:.*\n)*?) *```[ ]*$")


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks, without the indentation of those in lists."""
    for found in FENCE.finditer(markdown):
        text = re.sub(rf"(?m)^{found['indent']}", "", found["text"])
        yield Block(markdown.count("\n", 0, found.start("text")) + 1, found["language"], text)


def prose(markdown: str) -> str:
    return FENCE.sub("", markdown)


def anchors(markdown: str) -> set[str]:
    """Return the anchors that GitHub generates for the headings, and explicit ones."""
    slugs = [slug(heading) for heading in re.findall(r"(?m)^#{1,6} +(.+?)(?: +#+)? *$", prose(markdown))]
    seen: Counter[str] = Counter()
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", markdown))
    for each in slugs:
        found.add(f"{each}-{seen[each]}" if seen[each] else each)
        seen[each] += 1
    return found


def slug(heading: str) -> str:
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"(?<!\w)_+|_+(?!\w)", "", text)  # emphasis; underscores within a word stay
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def links(markdown: str) -> list[str]:
    return re.findall(r"\]\(([^()\s]+)(?: \"[^\"]*\")?\)", re.sub(r"`[^`\n]+`", "", prose(markdown)))


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Why three processes", "why-three-processes"),
        ("`transcriptd check`: can it work?", "transcriptd-check-can-it-work"),
        ("A & B", "a--b"),
        ("The [lease](delivery.md), `max_attempts` and *more*", "the-lease-max_attempts-and-more"),
        ("Größe", "größe"),
    ],
)
def test_anchors_follow_githubs_rules(heading: str, anchor: str) -> None:
    assert anchors(f"# {heading}\n\n```sh\n# no heading\n```\n\n## {heading}\n") == {anchor, f"{anchor}-1"}


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", LINKING_PAGES, ids=str)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", LINKING_PAGES, ids=str)
def test_anchors_of_links_are_headings_of_their_page(page: Path) -> None:
    text = (ROOT / page).read_text()
    wrong = []
    for link in links(text):
        target, found, anchor = link.partition("#")
        if not found or "://" in target or (target and not target.endswith(".md")):
            continue
        other = ROOT / page.parent / target if target else ROOT / page
        # A missing page is reported by the other test.
        if other.exists() and unquote(anchor) not in anchors(other.read_text()):
            wrong.append(link)
    assert not wrong, f"{page} links to anchors that do not exist: {', '.join(wrong)}"


# --- snippets -------------------------------------------------------------------------------------------------------


def parse_json(text: str) -> None:
    json.loads(text)


def parse_python(text: str) -> None:
    compile(text, "<snippet>", "exec")


def parse_sh(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SyntaxError(done.stderr.strip())


# tests/deploy/test_terraform.py checks the hcl blocks.
PARSERS: dict[str, Callable[[str], object]] = {
    "json": parse_json,
    "python": parse_python,
    "sh": parse_sh,
    "toml": tomllib.loads,
}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_snippets_parse(page: Path) -> None:
    wrong = []
    for line, language, text in blocks((ROOT / page).read_text()):
        if language in ALIASES:
            wrong.append(f"{page}:{line}: write ```{ALIASES[language]}, not ```{language}")
        try:
            PARSERS.get(language, str)(text)
        except (ValueError, SyntaxError) as error:
            wrong.append(f"{page}:{line}: {language}: {error}")
    assert not wrong, "\n".join(wrong)


# --- commands -------------------------------------------------------------------------------------------------------

# Words before a command that do not change which command it is.
PREFIXES = {"sudo", "exec", "time", "env", "$"}


def commands(shell: str) -> Iterator[list[str]]:
    """Yield the arguments of every `transcriptd` in a script. bash has already parsed the script, so this only splits
    it."""
    pending = ""
    for line in shell.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        try:
            words = split(pending)
        except ValueError:  # a quoted string that continues on the next line
            continue
        pending = ""
        for is_operator, group in groupby(words, lambda word: set(word) <= set("();|&")):
            if not is_operator and (arguments := transcriptd_arguments(list(group))) is not None:
                yield arguments


def split(shell: str) -> list[str]:
    """Split into words and operators, without comments."""
    lexer = shlex.shlex(shell, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def transcriptd_arguments(words: list[str]) -> list[str] | None:
    """Return the arguments if the command is `transcriptd`, on the PATH or in a virtual environment, possibly after a
    prefix."""
    first = next((at for at, word in enumerate(words) if not (word in PREFIXES or re.match(r"\w+=", word))), 0)
    for at, word in enumerate(words):
        if word.endswith("bin/transcriptd") or (at == first and word == "transcriptd"):
            rest = words[at + 1 :]
            return rest[: next((end for end, word in enumerate(rest) if set(word) <= set("<>")), len(rest))]
    return None


@cache
def usage(*subcommand: str) -> str | None:
    """Return the help of a subcommand, or None if it does not exist."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", ["transcriptd", *subcommand, "--help"])
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as exit_:
            main()
    return output.getvalue() if exit_.value.code == 0 else None


def mistake(arguments: list[str]) -> str | None:
    """Return the error in a command line: an unknown subcommand or flag. None if there is none."""
    subcommand: tuple[str, ...] = ()
    while (text := usage(*subcommand)) and re.search(r"(?m)^ {2}(COMMAND|ACTION)$", text):
        if len(subcommand) == len(arguments) or arguments[len(subcommand)].startswith("-"):
            break
        subcommand = (*subcommand, arguments[len(subcommand)])
    if text is None:
        return f"there is no `transcriptd {' '.join(subcommand)}`"
    flags = {word.partition("=")[0] for word in arguments[len(subcommand) :] if re.match(r"--?[a-z]", word)}
    unknown = flags - set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    return f"`transcriptd {' '.join(subcommand)}` has no {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_exist_with_their_flags(page: Path) -> None:
    text = (ROOT / page).read_text()
    scripts = [(block.line, block.text) for block in blocks(text) if block.language == "sh"]
    scripts += [(0, span) for span in re.findall(r"`(transcriptd [^`\n]+)`", prose(text))]
    wrong = [
        f"{page}:{line}: {found}" for line, script in scripts for each in commands(script) if (found := mistake(each))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("transcriptd run", ["run"]),
        ("A=1 sudo transcriptd dlq \\\n  list --json | jq .  # more", ["dlq", "list", "--json"]),
        ("cd x && .venv/bin/transcriptd check > log", ["check"]),
        ("transcriptd models fetch --from s3://my-models/v1", ["models", "fetch", "--from", "s3://my-models/v1"]),
        ("systemd-run --uid=transcriptd /opt/transcriptd/venv/bin/transcriptd check", ["check"]),
        (
            "transcriptd submit talk.mp4 --option 'initial_prompt=a\nb'",
            ["submit", "talk.mp4", "--option", "initial_prompt=a\nb"],
        ),
    ],
)
def test_commands_are_found_in_scripts(script: str, arguments: list[str]) -> None:
    assert list(commands(script)) == [arguments]


def test_other_commands_are_ignored() -> None:
    assert not list(commands("journalctl -u transcriptd -o cat\nsudo systemctl start transcriptd"))


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("run", None),
        ("dlq redrive --all --rate=2 --set options.model=base", None),
        ("models fetch --from s3://models/v1", None),
        ("dlq", None),
        ("--version", None),
        ("start", "there is no `transcriptd start`"),
        ("dlq remove", "there is no `transcriptd dlq remove`"),
        ("dlq list --all", "`transcriptd dlq list` has no --all"),
        ("submit talk.mp4 --wat", "`transcriptd submit` has no --wat"),
    ],
)
def test_mistakes_in_commands_are_found(command: str, found: str | None) -> None:
    assert mistake(command.split()) == found


# --- names ----------------------------------------------------------------------------------------------------------


def test_generated_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_message_in_the_docs_is_a_valid_one() -> None:
    settings = some_settings(
        input_buckets=("media",), output_bucket="results", webhook_hosts=("app.example.com",), webhook_secret="whsec_x"
    )
    page = (ROOT / "docs" / "publishing.md").read_text()
    example = next(block.text for block in blocks(page) if block.language == "json" and '"version"' in block.text)
    assert parse_job(example, settings).job_id == json.loads(example)["job_id"]


def test_every_code_has_one_class_and_a_hint() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    for error in all_errors():
        assert re.fullmatch(r"[a-z_]+", error.code)
        assert error.hint.endswith(".")


def test_documented_settings_and_metrics_exist() -> None:
    settings = {variable(name) for name in Settings.model_fields}
    metrics = set(re.findall(r"`(transcriptd_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    assert len(metrics) > 40
    for page in PAGES:
        text = (ROOT / page).read_text()
        for name in re.findall(r"\bTRANSCRIPTD_[A-Z_]*[A-Z]\b", text):
            assert name in settings, f"{page} names {name}"
        for name in re.findall(r"\btranscriptd_[a-z_]*[a-z]\b(?!:)", text):
            assert any(name.removesuffix(end) in metrics for end in ("", "_count", "_sum", "_bucket")), (
                f"{page} names {name}"
            )


def test_documented_tests_of_guarantees_exist() -> None:
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", (ROOT / "docs" / "delivery.md").read_text())
    assert len(named) > 20
    for path, test in named:
        assert (ROOT / path).exists(), f"delivery.md names {path}"
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"delivery.md names {path}::{test}"


def test_makefile_lists_its_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "bench", "docs", "lint"):
        assert f"make {target}" in listed
