"""`transcriptd dev`: the commands work against it through the variables that it prints, and Ctrl-C ends everything."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.waiting import wait_for
from tests.support.command_line import TIMEOUT_SECONDS, environment
from tests.support.media.decoding import is_alive
from tests.support.media.files import chirp, make_wav

ROOT = Path(__file__).parents[2]
TRANSCRIPTD = f"{sys.executable} -m daemon"


@contextmanager
def dev(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `transcriptd dev` in a process group of its own, as a terminal does. Its output goes to files."""
    variables = {
        "TMPDIR": str(folder / "temporary"),
        "TRANSCRIPTD_PIPELINE": "bench.scripted_pipeline:ScriptedPipeline",
        "TRANSCRIPTD_CANCEL_POLL_SECONDS": "0.2",
        "TRANSCRIPTD_HTTP_HOST": "0.0.0.0",
        "TRANSCRIPTD_AUTOSCALING_GROUP": "workers",
        "AWS_PROFILE": "not-there",
    }
    (folder / "temporary").mkdir()
    with (folder / "dev.env").open("wb") as out, (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "dev"],
            env=environment(variables),
            stdout=out,
            stderr=said,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT_SECONDS)


def shell(folder: Path, command: str) -> str:
    """Run a command in another shell, whose own variables would lead it elsewhere."""
    wrong = {"AWS_PROFILE": "not-there", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "TRANSCRIPTD_OUTPUT_PREFIX": "x/"}
    done = subprocess.run(
        ["bash", "-euc", f". ./dev.env; {command}"],
        cwd=folder,
        env=environment({**wrong, "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_work_against_dev_until_ctrl_c(tmp_path: Path) -> None:
    make_wav(tmp_path / "talk.wav", chirp(1))
    with dev(tmp_path) as running:
        said = tmp_path / "said"
        wait_for(lambda: "\nready; " in said.read_text() or running.poll() is not None, "the daemon is ready")
        assert running.poll() is None, said.read_text()
        submit = f"{TRANSCRIPTD} submit talk.wav"
        assert shell(tmp_path, f"{submit} --job-id talk --format txt") == "SPEAKER_00: hello there\n"
        sleeping = """--option 'initial_prompt="sleep 600"'"""
        shell(tmp_path, f"{submit} --job-id unwanted {sleeping}; {submit} --job-id unfinished {sleeping}")
        wait_for(lambda: said.read_text().count("job.started") == 3, "all jobs run")
        shell(tmp_path, f"{TRANSCRIPTD} cancel unwanted")
        wait_for(lambda: "job.cancelled  unwanted" in said.read_text(), "the cancelled job ends")
        listed = shell(tmp_path, f"{TRANSCRIPTD} jobs")
        assert all(state in listed for state in ("completed", "cancelled", "running"))
        processes = [running.pid, *children(running.pid)]
        assert listening_addresses(processes) == {"0100007F"}
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(TIMEOUT_SECONDS) == 0, said.read_text()
    lines = said.read_text().splitlines()
    assert any(line.endswith("job.completed  talk") for line in lines)
    assert lines[-1] == "stopped"
    assert not any(map(is_alive, processes))
    assert list((tmp_path / "temporary").iterdir()) == []


def children(pid: int) -> list[int]:
    """Return the processes below this one."""
    found = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def listening_addresses(processes: list[int]) -> set[str]:
    """Return the IPv4 addresses, as the kernel writes them, on which these processes listen. They listen on no IPv6 one."""
    sockets = {
        str(link.readlink()) for pid in processes for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()
    }
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                found.add(columns[1].partition(":")[0])
    return found
