"""The files that ship the log to other systems match the unit and the log's fields."""

import json
import re
import subprocess
from pathlib import Path

from daemon.telemetry.log_schema import FIELDS
from tests.support.programs import require_program

FOLDER = Path(__file__).parents[2] / "deploy" / "logging"
UNIT = FOLDER.parent / "systemd" / "transcriptd.service"
README = (FOLDER / "README.md").read_text()
DROP_IN = FOLDER / "transcriptd-log-file.conf"


def test_systemd_accepts_the_unit_with_the_drop_in(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    (folder / "log-file.conf").write_text(DROP_IN.read_text())
    command = [require_program("systemd-analyze"), "verify", str(unit)]
    assert subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout == b""
    (folder / "log-file.conf").write_text(DROP_IN.read_text().replace("append:", "appendix:"))
    refused = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert b"log-file.conf" in refused.stdout, "it is read"


def test_all_use_the_same_file() -> None:
    (entry,) = json.loads((FOLDER / "amazon-cloudwatch-agent.json").read_text())["logs"]["logs_collected"]["files"][
        "collect_list"
    ]
    path = entry["file_path"]
    assert f"StandardOutput=append:{path}\n" in DROP_IN.read_text()
    assert f"\n{path} {{" in (FOLDER / "transcriptd.logrotate").read_text()
    assert f"\nd {Path(path).parent} " in (FOLDER / "transcriptd-log.tmpfiles.conf").read_text()
    assert path in README


def test_alloy_reads_our_unit_and_our_fields() -> None:
    text = (FOLDER / "config.alloy").read_text()
    assert f'"_SYSTEMD_UNIT={UNIT.name}"' in text
    assert set(re.findall(r'(\w+)\s*= "",', text)) <= FIELDS.keys()
    assert text.count("{") == text.count("}")


def test_queries_use_existing_fields() -> None:
    queries = re.findall(r"(?s)```(logql)?\n(# .*?)```", README)
    assert len(queries) == 10
    seen: set[str] = set()
    for language, query in queries:
        text = re.sub(r'"[^"]*"|`[^`]*`|(?m:^#.*$)', "", query)
        named = set(re.findall(r"(?<![@\w.])([a-z0-9]+_[a-z0-9_]+)(?![\w(])", text))
        named = {name.replace("stages_seconds_asr", "stages_seconds") for name in named}
        named -= {"p95_seconds", "max_over_time", "count_over_time", "quantile_over_time", "line_format"}
        assert named <= FIELDS.keys(), f"{language or 'Insights'}: {named - FIELDS.keys()}"
        seen |= named
    assert len(seen) > 5
