"""The machine and what is installed on it: settings, packages, device, disk, decoder."""

import asyncio
import math
import os
import shutil
import struct
import sys
import tempfile
import wave
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from daemon.errors import SetupFailed, TranscriptdError
from daemon.media import SAMPLE_RATE, DecodeLimits, Decoder
from daemon.metrics import Metrics
from daemon.pipeline.probe import Facts
from daemon.tools.check.registry import Context, Finding, check, failed, passed, warned

GIB = 1024**3
SHORT_WAIT_SECONDS = 5
TONE_SECONDS = 0.5
DECODE_TIMEOUT_SECONDS = 60.0
INSTALL = "Install the versions of requirements.lock: `make setup`, or deploy/install.sh on an instance."
DRIVER = "Install an NVIDIA driver that fits (`nvidia-smi` must list the GPU)"


@check("settings", "the environment makes settings that can work; values that are legal but seldom meant")
async def settings_(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    yield passed("they can work")
    if settings.output_bucket is None and not settings.output_buckets:
        yield failed(
            "neither TRANSCRIPTD_OUTPUT_BUCKET nor TRANSCRIPTD_OUTPUT_BUCKETS is set: every job is refused",
            "Set TRANSCRIPTD_OUTPUT_BUCKET to the bucket that results go to.",
        )
    if settings.receive_wait_seconds < SHORT_WAIT_SECONDS:
        yield warned(
            f"TRANSCRIPTD_RECEIVE_WAIT_SECONDS is {settings.receive_wait_seconds}: each empty receive is paid for",
            "Leave TRANSCRIPTD_RECEIVE_WAIT_SECONDS at its default of 20.",
        )
    if settings.webhook_allow_http:
        yield warned(
            "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP is on: webhooks may go to private addresses, unencrypted",
            "Unset TRANSCRIPTD_WEBHOOK_ALLOW_HTTP unless this is a closed network.",
        )
    if settings.outbox_url is None and (settings.webhook_url is not None or settings.webhook_hosts):
        yield warned(
            f"there are webhooks but no outbox: an event is given up after {settings.webhook_attempts} tries",
            "Set TRANSCRIPTD_OUTBOX_URL to a standard queue of its own.",
        )


@check("packages", "Python and the packages have the versions that the release asks for")
async def packages(_: Context) -> AsyncGenerator[Finding, None]:
    about = metadata("transcriptd")
    python = ".".join(map(str, sys.version_info[:3]))
    if python not in SpecifierSet(about["Requires-Python"] or ""):
        yield failed(
            f"Python {python}; {about['Requires-Python']} is needed",
            "Make the virtual environment with a newer Python: make PYTHON=python3.11 …",
        )
    needed = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [problem for each in needed if (problem := _problem(each))]
    if wrong:
        yield failed("; ".join(wrong), INSTALL)
    else:
        yield passed(f"transcriptd {version('transcriptd')}, Python {python}, {len(needed)} packages as needed")


def _problem(needed: Requirement) -> str | None:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(found, prereleases=True):
        return None
    return f"{needed.name} {found} is installed, {needed.specifier} is needed"


@check(
    "device",
    "each GPU, its driver and memory; torch, cuDNN and CTranslate2 can use it (asked in a child process)",
    timeout_seconds=300,
)
async def device(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    try:
        devices = context.devices
    except SetupFailed as error:
        yield failed(error.message, f"{DRIVER}; TRANSCRIPTD_DEVICES=cpu runs without.")
        return
    # The CPU is one however many runners share it.
    for each in devices[:1] if devices[0].kind == "cpu" else devices:
        for finding in judge_device(await context.facts(each), each.kind, settings.compute_type):
            yield replace(finding, found=f"{each.name}: {finding.found}") if len(devices) > 1 else finding
    if settings.jobs_in_flight < len(devices):
        yield warned(
            f"{len(devices)} devices, but TRANSCRIPTD_JOBS_IN_FLIGHT is {settings.jobs_in_flight}: some never have a job",
            f"Set TRANSCRIPTD_JOBS_IN_FLIGHT to {2 * len(devices)}, two for each device.",
        )


def judge_device(facts: Facts, wanted: str, compute_type: str) -> list[Finding]:
    """What the libraries said of a device of the kind `wanted`: auto, cuda or cpu."""
    if wanted == "cpu":
        return [passed("CPU, as TRANSCRIPTD_DEVICES says"), *_judge_type(facts, compute_type, "int8")]
    if facts.cuda:
        return _judge_cuda(facts) or [_cuda(facts), *_judge_type(facts, compute_type, "float16")]
    if facts.torch_cuda is None:
        found, fix = f"torch {facts.torch} is built without CUDA", INSTALL
    elif facts.driver is None:
        found, fix = "no GPU: there is no NVIDIA driver", f"{DRIVER}, or run on a GPU instance"
    else:
        found = f"no usable GPU: driver {facts.driver}, torch {facts.torch} for CUDA {facts.torch_cuda}"
        fix = f"{DRIVER} and supports CUDA {facts.torch_cuda}"
    if wanted == "cuda":
        return [failed(found, f"{fix.removesuffix('.')}; TRANSCRIPTD_DEVICES=cpu runs without.")]
    slow = warned(
        f"CPU: {found}", f"{fix.removesuffix('.')}; if a CPU is meant, many times slower, set TRANSCRIPTD_DEVICES=cpu."
    )
    return [slow, *_judge_type(facts, compute_type, "int8")]


def _judge_cuda(facts: Facts) -> list[Finding]:
    """What is wrong with a GPU that torch finds."""
    if facts.torch_error or facts.cudnn is None:
        reason = facts.torch_error or "torch finds no cuDNN"
        return [failed(f"{facts.device_name}: torch {facts.torch} cannot compute: {reason}", f"{DRIVER}; {INSTALL}")]
    if facts.ctranslate2_error:
        found = f"{facts.device_name}: CTranslate2 {facts.ctranslate2} cannot use CUDA: {facts.ctranslate2_error}"
        return [failed(found, f"{DRIVER}; {INSTALL}")]
    return []


def _cuda(facts: Facts) -> Finding:
    cudnn = facts.cudnn or 0
    found = (
        f"{facts.device_name}, driver {facts.driver or 'unknown'}, "
        f"{facts.free_bytes / GIB:.1f} of {facts.total_bytes / GIB:.1f} GiB free, CUDA {facts.torch_cuda}, "
        f"cuDNN {cudnn // 10_000}.{cudnn // 100 % 100}.{cudnn % 100}, CTranslate2 {facts.ctranslate2}"
    )
    if facts.free_bytes < facts.total_bytes / 2:
        return warned(found, "See with `nvidia-smi` who holds the memory; a daemon that runs here already may.")
    return passed(found)


def _judge_type(facts: Facts, compute_type: str, automatic: str) -> list[Finding]:
    compute_type = automatic if compute_type == "auto" else compute_type
    if compute_type in facts.compute_types:
        return []
    return [
        failed(
            f"CTranslate2 has no {compute_type} here, but {', '.join(facts.compute_types) or 'nothing'}",
            "Set TRANSCRIPTD_COMPUTE_TYPE to one of those.",
        )
    ]


@check("disk", "the scratch directory can be written to and has the room that TRANSCRIPTD_MIN_FREE_BYTES asks for")
async def disk(context: Context) -> AsyncGenerator[Finding, None]:
    root, needed = context.settings.scratch_dir, context.settings.min_free_bytes
    try:
        free = await asyncio.to_thread(_try_scratch, root)
    except OSError as error:
        yield failed(
            f"{root} cannot be written to: {error.strerror or error}",
            "Let the daemon's user own the directory, or set TRANSCRIPTD_SCRATCH_DIR to another.",
        )
        return
    found = f"{root}: {free / GIB:.1f} GiB free, {needed / GIB:.1f} needed"
    if free < needed:
        yield failed(
            f"{found}: no message would be received",
            "Free some room, give the instance a larger disk, or lower TRANSCRIPTD_MIN_FREE_BYTES.",
        )
    else:
        yield passed(found)


def _try_scratch(root: Path) -> int:
    """Write a file to the directory; its free bytes. What was not there before is not there afterwards."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return shutil.disk_usage(root).free
    finally:
        for folder in made:
            with suppress(OSError):  # another process put something there
                folder.rmdir()


@check("decoder", "a tone of half a second is decoded by the confined decoder; whether it can leave the network")
async def decoder(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    limits = DecodeLimits(settings.max_media_seconds, DECODE_TIMEOUT_SECONDS, settings.decode_memory_bytes)
    with tempfile.TemporaryDirectory(prefix="transcriptd-check-") as folder:
        source = Path(folder) / "tone.wav"
        _write_tone(source)
        try:
            async with Decoder(Path(folder), Metrics()) as decoder:
                audio = await decoder.decode(source, Path(folder) / "tone.f32", limits)
        except TranscriptdError as error:
            last = (error.detail or "").strip().splitlines()[-1:]
            yield failed(
                ": ".join([error.message, *last]),
                f"{INSTALL.removesuffix('.')}; TRANSCRIPTD_DECODE_MEMORY_BYTES may be too small.",
            )
            return
        samples = audio.paths[0].read_bytes()
    if abs(audio.duration_seconds - TONE_SECONDS) > 0.01 or not any(samples):
        yield failed(f"a tone of {TONE_SECONDS} s became {audio.duration_seconds} s of something else", INSTALL)
        return
    if await _leaves_network():
        yield passed("decodes, without a network")
    else:
        yield warned(
            "decodes, but this system lets no process give up its network: files cannot reach it only because FFmpeg is told so",
            "Allow user namespaces to the daemon's user; in a container, by its seccomp profile.",
        )


def _write_tone(path: Path) -> None:
    count = round(TONE_SECONDS * SAMPLE_RATE)
    samples = (round(8000 * math.sin(2 * math.pi * 440 * index / SAMPLE_RATE)) for index in range(count))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(struct.pack(f"<{count}h", *samples))


async def _leaves_network() -> bool:
    """Whether the decoder's call works, in a process that may lose its own network."""
    code = "import sys; from daemon.confine import leave_network; sys.exit(0 if leave_network() else 3)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", code)
    return await process.wait() == 0
