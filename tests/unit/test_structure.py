"""The direction of imports, and what the poller process may never import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import daemon
from daemon.catalog import LANGUAGES

PACKAGE = Path(daemon.__file__).parent

# The direction of imports: a module may import those that stand after it, never one before.
ORDER = """
    __main__ tools launcher tracing status_server status_page snapshot health vitals gpu host autoscaling interruption imds
    poller processor transcription summary status delivery intake results runners runner runner_process runner_state admission models
    pipeline embedded
    lease webhook outbox outbox_entry webhook_client storage media fork_server decoder waveform confine scratch addresses
    sqs dead_letter disposition events manifest privacy outputs metrics history pace
    job transcript protocol options config devices catalog punctuation spans outage logs log_schema wording errors tracecontext memory
    systemd crashpoints
""".split()


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports: the first name below `daemon`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "daemon" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("daemon.")}
    return found


def units() -> dict[str, set[str]]:
    """Module or package below `daemon` → those of ours that it imports."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        found.setdefault(name, set()).update(imports_of(path) - {name})
    return found


def test_imports_go_one_way() -> None:
    found = units()
    found.pop("__init__")
    assert set(found) == set(ORDER), "a module was added or removed: give it its place in ORDER"
    rank = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{name} imports {target}" for name, targets in found.items() for target in targets if rank[target] < rank[name]
    ]
    assert wrong == []


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_no_torch_in_the_poller_process() -> None:
    loaded = loaded_after("import daemon.launcher")
    heavy = {"torch", "whisperx", "pyannote", "faster_whisper", "ctranslate2", "av", "numpy", "moto", "opentelemetry"}
    assert heavy & loaded == set()


def test_opentelemetry_is_for_those_who_want_it() -> None:
    """Only daemon.tracing imports it, and only where an endpoint is set that module is imported."""
    for path in PACKAGE.rglob("*.py"):
        imports = re.search(r"^\s*(from|import) (opentelemetry|daemon\.tracing)\b", path.read_text(), re.MULTILINE)
        assert bool(imports) == (path.name in ("tracing.py", "launcher.py")), path
    opened = "from daemon.launcher import *; from tests.conftest import settings_with; from daemon.launcher import _open_tracer; asyncio.run(_open_tracer(settings_with({}), Metrics()).__aenter__())"
    assert "opentelemetry" not in loaded_after(opened.format(""))
    assert "opentelemetry" in loaded_after(opened.format("otlp_endpoint='http://127.0.0.1:9'"))


def test_the_check_leaves_the_libraries_to_its_child() -> None:
    loaded = loaded_after("import daemon.tools.check.command, huggingface_hub")
    assert {"torch", "ctranslate2", "whisperx", "pyannote", "faster_whisper"} & loaded == set()


def test_help_imports_nothing_of_weight() -> None:
    loaded = loaded_after("import daemon.__main__")
    assert {"torch", "pydantic", "boto3", "aiohttp", "asyncio"} & loaded == set()


def test_the_embedded_world_is_not_part_of_the_daemon() -> None:
    assert not any(name.startswith("daemon.embedded") for name in loaded_after("import daemon.launcher"))


def test_languages_are_those_of_whisper() -> None:
    code = "from faster_whisper.tokenizer import _LANGUAGE_CODES as c; print(' '.join(c))"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(LANGUAGES) == set(known)


def test_no_module_is_a_book() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 420
    }
    assert long == {}
