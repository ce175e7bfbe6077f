"""Scratch space: nothing is left behind, and nothing of a running daemon is deleted."""

import contextlib
import subprocess
import sys
from pathlib import Path

from daemon.jobs.scratch import job_directory, open_scratch

DIES = """
import os, sys
from pathlib import Path
from daemon.jobs.scratch import job_directory, open_scratch
with open_scratch(Path(sys.argv[1])) as scratch, job_directory(scratch) as directory:
    (directory / "audio.f32").write_bytes(b"x" * 1000)
    os._exit(1)
"""


def test_job_directory_is_removed_on_every_path(tmp_path: Path) -> None:
    with open_scratch(tmp_path / "root") as scratch:
        with contextlib.suppress(ZeroDivisionError), job_directory(scratch) as directory:
            (directory / "input").write_bytes(b"x")
            raise ZeroDivisionError
        assert not directory.exists()
    assert not scratch.exists()


def test_next_start_deletes_leftovers_of_a_dead_daemon(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert list(tmp_path.rglob("audio.f32"))
    with open_scratch(tmp_path):
        assert not list(tmp_path.rglob("audio.f32"))


def test_running_daemon_keeps_its_files(tmp_path: Path) -> None:
    with open_scratch(tmp_path) as first, job_directory(first) as directory:
        (directory / "input").write_bytes(b"x")
        with open_scratch(tmp_path) as second:
            assert second != first
            assert (directory / "input").exists()
