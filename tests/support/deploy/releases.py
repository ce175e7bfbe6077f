"""Build releases of this working tree with deploy/release.sh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
RELEASED = ("daemon", "deploy", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


def commit_working_tree(target: Path) -> None:
    """Turn `target` into a repository with one commit that holds the release files of this working tree."""
    target.mkdir()
    for name in RELEASED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".terraform"))
        else:
            shutil.copy(source, target)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=target, check=True)


def make_archive(checkout: Path, folder: Path) -> tuple[Path, str]:
    """Write the release archive of a checkout's commit to `folder` and return it with the SHA-256 that the script
    prints."""
    done = subprocess.run(
        ["bash", str(checkout / "deploy/release.sh"), str(folder)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    path, digest = done.stdout.split()
    return Path(path), digest
