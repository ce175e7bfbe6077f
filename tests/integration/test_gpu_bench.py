"""`make bench-gpu` without a GPU: its logic on the CPU, with a fake NVML."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def bench_gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.gpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support" / "nvml"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_without_a_gpu_nothing_is_measured() -> None:
    done = bench_gpu()
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no CUDA device" in done.stderr


def test_random_whisper_decodes_the_requested_number_of_tokens(tmp_path: Path) -> None:
    done = bench_gpu(
        *("--device", "cpu", "--shape", "tiny", "--steps-only", "--json", str(tmp_path / "steps.json")),
        *("--batch-sizes", "1", "4", "--step-repeat", "1"),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert [row["batch"] for row in rows] == [1, 4]
    for row in rows:
        assert row["steps"]["tokens"] == 64, "no text ended before the requested length"
        assert row["steps"]["encode_seconds"] > 0
        busy, peak_bytes = row["gpu"]
        assert 0.2 <= round(busy, 6) <= 0.95  # a mean of the fake's 0.2 to 0.95
        assert 9 * 2**30 <= peak_bytes <= 14 * 2**30
    assert "random weights" in done.stdout
    assert "Fake GPU" in done.stdout
    assert "GPU busy" in done.stdout
