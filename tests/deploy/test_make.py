"""`make setup` says what it needs, and refuses other systems, before it downloads anything."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_setup(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run `make setup` with these programs, shell scripts by name, in place of the machine's."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    # The flags of `make test --jobs` would make this one warn that it has no job server.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "--no-print-directory", "setup", f"VENV={folder}/venv", "PYTHON=a-python"],
        cwd=ROOT,
        env={**inherited, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_other_systems_are_refused_with_one_line(tmp_path: Path) -> None:
    done = make_setup(tmp_path, uname="echo Darwin", **{"a-python": f"touch {tmp_path}/started"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("this is Darwin, and transcriptd needs Linux: ")
    assert done.stdout == ""
    assert not (tmp_path / "started").exists()


def test_needs_are_stated_before_the_download(tmp_path: Path) -> None:
    done = make_setup(tmp_path, **{"a-python": '[ "$1" = -c ]'})
    assert done.returncode == 2
    first, second = done.stdout.splitlines()
    assert first.startswith("set-up: downloads about 4 GB of packages; ")
    assert second == f"a-python -m venv {tmp_path}/venv"
