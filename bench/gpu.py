"""`python -m bench.gpu`: the table of bench.throughput on a CUDA device, and Whisper's encoder and decoder by batch
size.

With `--model` both use real weights. Without it the peers use Whisper base, which is available as a package, and the
steps use a model of large-v3's shape with random weights, whose text is meaningless but whose timing is that of real
weights. GPU utilization and memory come from NVML. Without a CUDA device nothing is measured, and the exit status is 1;
`--device cpu --shape tiny` runs a trial.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import throughput
from bench.corpora import CORPORA
from bench.gpu_watch import find_nvml, gpu_name, watching
from bench.random_whisper import SHAPES, make_random_whisper
from bench.report import machine, write_measured
from bench.setup import BEAM_SIZE, Setup, find_model
from bench.steps import StepsRow, measure_steps, steps_table

COMMAND = "make bench-gpu ARGS=--write"
COMPUTE_TYPES = {"cuda": "float16", "cpu": "int8"}
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True, highlight=False)
    if arguments.device == "cuda" and not _cuda_devices():
        console.print("no CUDA device: nothing measured; use --device cpu --shape tiny for a trial run", soft_wrap=True)
        return 1
    nvml = find_nvml()
    setup = Setup(
        find_model(arguments.model or "base"),
        device=arguments.device,
        compute_type=COMPUTE_TYPES[arguments.device],
        daemon_settings=tuple(arguments.settings),
    )
    with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
        model = setup.model
        if not arguments.model:
            console.print(f"creating a Whisper model of {arguments.shape}'s shape with random weights")
            model = str(make_random_whisper(Path(name), SHAPES[arguments.shape], setup.compute_type))
        steps: list[StepsRow] = []
        for row in sweep(replace(setup, model=model), arguments.batch_sizes, arguments.step_repeat, nvml):
            steps.append(row)
            console.print(f"batch {row.batch}: {row.steps or 'out of memory'}", soft_wrap=True)
    rows, jobs = ([], []) if arguments.steps_only else throughput.run(arguments, setup, console, nvml)
    what = arguments.model or f"{arguments.shape}'s shape, random weights"
    measured = (
        throughput.report(rows, jobs, setup, arguments.scale, nvml)
        if rows
        else f"{machine(setup.threads, gpu_name(nvml))}\n"
    )
    measured += f"\nWhisper {what}, {setup.compute_type}, beam {BEAM_SIZE}, n = {arguments.step_repeat}:\n\n{steps_table(steps)}"
    print(measured)
    if arguments.json:
        throughput.write_json(arguments.json, rows, jobs, steps=[asdict(row) for row in steps])
    if arguments.write:
        write_measured(throughput.PAGE, COMMAND, measured)
    return 0


def sweep(setup: Setup, batch_sizes: Sequence[int], repeat: int, nvml: Any = None) -> Iterator[StepsRow]:
    """Measure one batch size after the other in one process that keeps the model; stop at the first that runs out of
    memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for batch in batch_sizes:
            with watching(nvml) as gpu:
                steps = process.submit(measure_steps, setup, batch, repeat).result()
            yield StepsRow(batch, steps, gpu.use(steps.began, steps.ended) if gpu and steps else None)
            if steps is None:
                return


def _cuda_devices() -> int:
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="real weights: base, tiny.en, a folder, or a model name of faster-whisper")
    parser.add_argument("--device", choices=COMPUTE_TYPES, default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="large-v3", help="shape of the model with random weights")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--step-repeat", type=int, default=5)
    parser.add_argument("--steps-only", action="store_true", help="skip the peers")
    throughput.add_arguments(parser)
    parser.set_defaults(corpora=list(CORPORA), scale=1.0)
    arguments = throughput.parse(parser)
    if arguments.write and (arguments.device == "cpu" or arguments.steps_only):
        parser.error("--write requires a CUDA device and the complete measurement")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
