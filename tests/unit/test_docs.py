"""Documents that drift from the code are worse than none."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config import Settings, variable
from daemon.errors import all_errors
from daemon.job import parse_job
from tests.conftest import settings_with

ROOT = Path(__file__).parents[2]


def test_generated_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_message_in_the_docs_is_a_valid_one() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    example = next(block for block in re.findall(r"(?s)```json\n(.*?)```", text) if '"version"' in block)
    settings = settings_with(
        input_buckets=("media",), output_bucket="results", webhook_hosts=("app.example.com",), webhook_secret="whsec_x"
    )
    assert parse_job(example, settings).job_id == json.loads(example)["job_id"]


def test_every_code_has_a_class_of_its_own_and_a_cure() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    for error in all_errors():
        assert re.fullmatch(r"[a-z_]+", error.code)
        assert error.cure.endswith(".")


@pytest.mark.parametrize(
    "page",
    sorted(
        path.relative_to(ROOT)
        for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*/README.md")]
    ),
    ids=str,
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page.parent / target).exists(), f"{page} links to {target}"


PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]


def test_settings_and_metrics_that_documents_name_exist() -> None:
    settings = {variable(name) for name in Settings.model_fields}
    metrics = set(re.findall(r"`(transcriptd_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    named = {page: page.read_text() for page in PAGES}
    assert len(metrics) > 40
    for page, text in named.items():
        for name in re.findall(r"\bTRANSCRIPTD_[A-Z_]*[A-Z]\b", text):
            assert name in settings, f"{page.name} names {name}"
        for name in re.findall(r"\btranscriptd_[a-z_]*[a-z]\b(?!:)", text):
            assert any(name.removesuffix(end) in metrics for end in ("", "_count", "_sum", "_bucket")), (
                f"{page.name} names {name}"
            )


def test_the_makefile_lists_its_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "bench", "docs", "lint"):
        assert f"make {target}" in listed
