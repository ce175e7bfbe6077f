"""The direction of imports, and what the poller process must never import."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import daemon
from daemon import launcher
from daemon.schema.catalog import LANGUAGES

ROOT = Path(__file__).parents[2]
PACKAGE = Path(daemon.__file__).parent


def test_imports_go_one_way() -> None:
    """Check the contracts in pyproject.toml. Every module below `daemon` has its layer there."""
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_no_torch_in_the_poller_process() -> None:
    loaded = loaded_after("import daemon.launcher")
    heavy = {
        "torch",
        "whisperx",
        "pyannote",
        "faster_whisper",
        "ctranslate2",
        "av",
        "numpy",
        "moto",
        "opentelemetry.sdk",
        "opentelemetry.exporter",
    }
    assert heavy & loaded == set()


def test_opentelemetry_sdk_is_imported_only_if_enabled() -> None:
    """Only telemetry/tracing.py imports the SDK, and that module is imported only if an endpoint is set."""
    importing = r"^\s*(from|import) (opentelemetry|daemon\.telemetry\.tracing)\b"
    found = {path.name for path in PACKAGE.rglob("*.py") if re.search(importing, path.read_text(), re.MULTILINE)}
    assert found == {"spans.py", "tracing.py", "composition.py"}
    opened = "import asyncio; from daemon.composition import *; from tests.support.builders import some_settings; from daemon.composition import _open_tracer; asyncio.run(_open_tracer(some_settings({}), Metrics()).__aenter__())"
    assert "opentelemetry.sdk" not in loaded_after(opened.format(""))
    assert "opentelemetry.sdk" in loaded_after(opened.format("otlp_endpoint='http://127.0.0.1:9'"))


def test_check_leaves_the_libraries_to_its_child() -> None:
    loaded = loaded_after("import daemon.cli.check.command, huggingface_hub")
    assert {"torch", "ctranslate2", "whisperx", "pyannote", "faster_whisper"} & loaded == set()


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_after("import daemon.__main__")
    assert {"torch", "pydantic", "boto3", "aiohttp", "asyncio"} & loaded == set()


def test_embedded_world_is_not_part_of_the_daemon() -> None:
    assert not any(name.startswith("daemon.demo") for name in loaded_after("import daemon.launcher"))


def test_languages_are_those_of_whisper() -> None:
    code = "from faster_whisper.tokenizer import _LANGUAGE_CODES as c; print(' '.join(c))"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(LANGUAGES) == set(known)


@pytest.mark.parametrize("phase", [launcher.serve, launcher.startup, launcher.main_loop, launcher.shutdown])
def test_main_loop_fits_on_one_screen(phase: Callable[..., object]) -> None:
    assert len(inspect.getsource(phase).splitlines()) <= 40


def test_modules_are_short() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 420
    }
    assert long == {}
