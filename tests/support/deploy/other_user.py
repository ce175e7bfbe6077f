"""Let install.sh fetch models as another user where the tests' folders are closed to other users, such as below /root."""

import os
import shutil
from pathlib import Path

# The user may read and traverse every folder, and write nowhere but in its own.
WRAPPER = """#!/bin/sh
exec {setpriv} --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
"""


def is_open(*paths: str | Path) -> bool:
    """Return whether every user may reach the paths."""
    return all(parent.stat().st_mode & 0o001 for path in paths for parent in Path(path).resolve().parents)


def path_with_setpriv(folder: Path, *needed: str | Path) -> str:
    """Return a PATH with a setpriv whose user can reach the needed paths. A wrapper is written to the folder if necessary."""
    if is_open(*needed):
        return os.environ["PATH"]
    folder.mkdir(exist_ok=True)
    wrapper = folder / "setpriv"
    wrapper.write_text(WRAPPER.format(setpriv=shutil.which("setpriv")))
    wrapper.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
