"""Scratch space: nothing is left behind, and nothing of a running daemon is deleted."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.errors import ConfigError
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


def test_root_that_everyone_may_write_to_becomes_private(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    with open_scratch(root):
        assert root.stat().st_mode & 0o777 == 0o700


NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to other users")


@only_root
def test_root_that_another_user_made_first_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, NOBODY, NOBODY)
    with (
        pytest.raises(ConfigError, match=f"TRANSCRIPTD_SCRATCH_DIR.*{root} belongs to user {NOBODY}"),
        open_scratch(root),
    ):
        pass
    assert list(root.iterdir()) == []


@only_root
def test_root_that_an_operator_gave_to_another_user_is_used(tmp_path: Path) -> None:
    """As root started by hand on an instance, where the directory belongs to the daemon's user."""
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, NOBODY, NOBODY)
    with open_scratch(root):
        pass


@only_root
def test_link_that_another_user_made_first_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    root.symlink_to(tmp_path / "elsewhere")
    os.chown(root, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigError, match=f"belongs to user {NOBODY}"), open_scratch(root):
        pass


@only_root
def test_ordinary_user_refuses_the_directory_of_another(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 1234, 1234)
    root.chmod(0o777)
    code = (
        "import os, sys; from pathlib import Path; from daemon.jobs.scratch import open_scratch\n"
        f"os.setuid({NOBODY})\n"
        "with open_scratch(Path(sys.argv[1])): pass"
    )
    for parent in root.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o1777)
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=False, capture_output=True, text=True)
    assert "belongs to user 1234 and this is user 65534" in done.stderr


def test_links_in_place_of_locks_are_not_followed(tmp_path: Path) -> None:
    """Opening a lock for writing truncated the file that a link pointed to."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    root = tmp_path / "root"
    stale = root / "daemon-0123"
    stale.mkdir(parents=True)
    (stale / "lock").symlink_to(precious)
    with pytest.raises(ConfigError, match="lock cannot be used"), open_scratch(root):
        pass
    (stale / "lock").unlink()
    (root / "lock").unlink()
    (root / "lock").symlink_to(precious)
    with pytest.raises(ConfigError, match="lock cannot be used"), open_scratch(root):
        pass
    (root / "lock").unlink()
    stale.rmdir()
    (tmp_path / "other").mkdir()
    (root / "daemon-link").symlink_to(tmp_path / "other")
    with open_scratch(root):
        pass
    assert precious.read_text() == "kept"
    assert (tmp_path / "other").is_dir()
