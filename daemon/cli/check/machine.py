"""The machine and its software: settings, packages, device, disk, decoder."""

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

from daemon.cli.check.probing import run_probe
from daemon.cli.check.registry import CheckAborted, CheckResult, check, failed, passed, warned
from daemon.config import Settings
from daemon.environment import is_offline
from daemon.errors import ConfigError, SetupFailed, TranscriptdError
from daemon.jobs.validation import check_profiles
from daemon.media.decoder_pool import SAMPLE_RATE, DecodeLimits, DecoderPool
from daemon.media.sandbox_probe import ADVICE, probe_sandbox
from daemon.protocol.probe import ProbeResult
from daemon.supervisor.devices import Device, choose_devices
from daemon.telemetry.metrics import Metrics

GIB = 1024**3
SHORT_WAIT_SECONDS = 5
TONE_SECONDS = 0.5
DECODE_TIMEOUT_SECONDS = 60.0
INSTALL = "Install the versions of requirements.lock: `make setup`, or deploy/install.sh on an instance."
DRIVER = "Install a compatible NVIDIA driver (`nvidia-smi` must list the GPU)"


@check("settings", "the settings are valid; valid settings that are probably a mistake get a warning")
async def settings_(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    try:
        check_profiles(settings)
        yield passed("valid")
    except ConfigError as error:
        yield failed(error.message, "Correct the file that TRANSCRIPTD_PROFILES names.")
    if settings.output_bucket is None and not settings.output_buckets:
        yield failed(
            "neither TRANSCRIPTD_OUTPUT_BUCKET nor TRANSCRIPTD_OUTPUT_BUCKETS is set: every job is rejected",
            "Set TRANSCRIPTD_OUTPUT_BUCKET to the bucket for results.",
        )
    if settings.receive_wait_time_seconds < SHORT_WAIT_SECONDS:
        yield warned(
            f"TRANSCRIPTD_RECEIVE_WAIT_TIME_SECONDS is {settings.receive_wait_time_seconds}: SQS charges for each empty receive",
            "Leave TRANSCRIPTD_RECEIVE_WAIT_TIME_SECONDS at its default of 20.",
        )
    if settings.webhook_allow_http:
        yield warned(
            "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP is on: webhooks may go to private addresses, unencrypted",
            "Unset TRANSCRIPTD_WEBHOOK_ALLOW_HTTP unless this is a closed network.",
        )
    if settings.outbox_url is None and (settings.webhook_url or settings.webhook_hosts or settings.event_bus):
        yield warned(
            f"webhooks or an event bus are configured without an outbox: an event is dropped after {settings.webhook_attempts} attempts",
            "Set TRANSCRIPTD_OUTBOX_URL to a separate standard queue.",
        )


@check("packages", "Python and the packages have the versions that the release requires")
async def packages(_: Settings) -> AsyncGenerator[CheckResult, None]:
    about = metadata("transcriptd")
    python = ".".join(map(str, sys.version_info[:3]))
    if python not in SpecifierSet(about["Requires-Python"] or ""):
        yield failed(
            f"Python {python} is installed, {about['Requires-Python']} is required",
            "Create the virtual environment with a newer Python: make PYTHON=python3.11 …",
        )
    needed = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [problem for each in needed if (problem := _problem(each))]
    if wrong:
        yield failed("; ".join(wrong), INSTALL)
    else:
        yield passed(f"transcriptd {version('transcriptd')}, Python {python}, {len(needed)} packages as required")


def _problem(needed: Requirement) -> str | None:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(found, prereleases=True):
        return None
    return f"{needed.name} {found} is installed, {needed.specifier} is required"


@check(
    "device",
    "each GPU, its driver and memory; torch, cuDNN and CTranslate2 can use it (tested in a child process)",
    timeout_seconds=300,
)
async def device(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    try:
        devices = choose_devices(settings.devices, settings.cpu_threads)
    except SetupFailed as error:
        yield failed(error.message, f"{DRIVER}; TRANSCRIPTD_DEVICES=cpu runs without a GPU.")
        return
    # All runners on the CPU share one device: test it once.
    for each in devices[:1] if devices[0].kind == "cpu" else devices:
        for finding in judge_device(await _probe(each), each.kind, settings.compute_type):
            yield replace(finding, found=f"{each.name}: {finding.found}") if len(devices) > 1 else finding
    if settings.max_jobs_in_flight < len(devices):
        yield warned(
            f"{len(devices)} devices, but TRANSCRIPTD_MAX_JOBS_IN_FLIGHT is {settings.max_jobs_in_flight}: some devices stay idle",
            f"Set TRANSCRIPTD_MAX_JOBS_IN_FLIGHT to {2 * len(devices)}, two for each device.",
        )


async def _probe(device: Device) -> ProbeResult:
    """Probe the device in a child process. Raises CheckAborted if the libraries do not load."""
    try:
        return await run_probe(device)
    except RuntimeError as error:
        raise CheckAborted(
            failed(str(error), f"{INSTALL.removesuffix('.')}, and check the driver with `nvidia-smi`.")
        ) from error


def judge_device(facts: ProbeResult, wanted: str, compute_type: str) -> list[CheckResult]:
    """Evaluate the probe of a device; `wanted` is auto, cuda or cpu."""
    if wanted == "cpu":
        return [passed("CPU, as set by TRANSCRIPTD_DEVICES"), *_judge_type(facts, compute_type, "int8")]
    if facts.cuda:
        return _judge_cuda(facts) or [_cuda(facts), *_judge_type(facts, compute_type, "float16")]
    if facts.torch_cuda is None:
        found, fix = f"torch {facts.torch} is built without CUDA", INSTALL
    elif facts.driver is None:
        found, fix = "no GPU: no NVIDIA driver found", f"{DRIVER}, or run on a GPU instance"
    else:
        found = f"no usable GPU: driver {facts.driver}, torch {facts.torch} for CUDA {facts.torch_cuda}"
        fix = f"{DRIVER} that supports CUDA {facts.torch_cuda}"
    if wanted == "cuda":
        return [failed(found, f"{fix.removesuffix('.')}; TRANSCRIPTD_DEVICES=cpu runs without a GPU.")]
    slow = warned(
        f"CPU: {found}", f"{fix.removesuffix('.')}; to use the CPU, many times slower, set TRANSCRIPTD_DEVICES=cpu."
    )
    return [slow, *_judge_type(facts, compute_type, "int8")]


def _judge_cuda(facts: ProbeResult) -> list[CheckResult]:
    """Return the problems of a GPU that torch detects."""
    if facts.torch_error or facts.cudnn is None:
        reason = facts.torch_error or "torch does not find cuDNN"
        return [failed(f"{facts.device_name}: torch {facts.torch} cannot compute: {reason}", f"{DRIVER}; {INSTALL}")]
    if facts.ctranslate2_error:
        found = f"{facts.device_name}: CTranslate2 {facts.ctranslate2} cannot use CUDA: {facts.ctranslate2_error}"
        return [failed(found, f"{DRIVER}; {INSTALL}")]
    return []


def _cuda(facts: ProbeResult) -> CheckResult:
    cudnn = facts.cudnn or 0
    found = (
        f"{facts.device_name}, driver {facts.driver or 'unknown'}, "
        f"{facts.free_bytes / GIB:.1f} of {facts.total_bytes / GIB:.1f} GiB free, CUDA {facts.torch_cuda}, "
        f"cuDNN {cudnn // 10_000}.{cudnn // 100 % 100}.{cudnn % 100}, CTranslate2 {facts.ctranslate2}"
    )
    if facts.free_bytes < facts.total_bytes / 2:
        return warned(found, "Run `nvidia-smi` to see which process uses the memory; a daemon may already be running.")
    return passed(found)


def _judge_type(facts: ProbeResult, compute_type: str, automatic: str) -> list[CheckResult]:
    compute_type = automatic if compute_type == "auto" else compute_type
    if compute_type in facts.compute_types:
        return []
    return [
        failed(
            f"CTranslate2 does not support {compute_type} here; supported: {', '.join(facts.compute_types) or 'none'}",
            "Set TRANSCRIPTD_COMPUTE_TYPE to a supported type.",
        )
    ]


@check("disk", "the scratch directory is writable and has the free space that TRANSCRIPTD_MIN_FREE_BYTES requires")
async def disk(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    root, needed = settings.scratch_dir, settings.min_free_bytes
    try:
        free, total = await asyncio.to_thread(_try_scratch, root)
    except OSError as error:
        yield failed(
            f"{root} is not writable: {error.strerror or error}",
            "Make the daemon's user the owner of the directory, or set TRANSCRIPTD_SCRATCH_DIR to another one.",
        )
        return
    found = f"{root}: {free / GIB:.1f} GiB free, {needed / GIB:.1f} needed"
    if free < needed:
        yield failed(
            f"{found}: the daemon would receive no messages",
            "Free disk space, use a larger disk, or lower TRANSCRIPTD_MIN_FREE_BYTES.",
        )
    elif total < settings.max_input_bytes:
        yield warned(
            f"{root} has {total / GIB:.1f} GiB in all; recordings of up to {settings.max_input_bytes / GIB:.1f} GiB are accepted",
            "Use a larger disk, or lower TRANSCRIPTD_MAX_INPUT_BYTES.",
        )
    else:
        yield passed(found)


def _try_scratch(root: Path) -> tuple[int, int]:
    """Write a temporary file and return the disk's free and total bytes. Removes the directories that it creates."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        usage = shutil.disk_usage(root)
        return usage.free, usage.total
    finally:
        for folder in made:
            with suppress(OSError):  # another process uses the folder
                folder.rmdir()


@check(
    "sandbox",
    "this kernel confines the decoder of untrusted media and the runner: processes that Landlock and seccomp lock down try what these must refuse",
)
async def sandbox(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    try:
        report = await probe_sandbox()
    except TranscriptdError as error:
        last = (error.detail or "").strip().splitlines()[-1:]
        yield failed(": ".join([error.message, *last]), INSTALL)
        return
    if report.weakness is None:
        network = "no network" if is_offline() else "network access to fetch models (HF_HUB_OFFLINE is not set)"
        found = (
            f"a decoder can read its recording, write its audio, and nothing else; a runner has {network}, and no access to "
            "credentials and other processes"
        )
        if settings.host == "ec2" and not is_offline():
            yield warned(
                found,
                "Fetch the models beforehand and set HF_HUB_OFFLINE=1: a runner could ask for the role's credentials.",
            )
        else:
            yield passed(found)
    elif settings.allow_weak_sandbox:
        yield warned(f"{report.weakness}; TRANSCRIPTD_ALLOW_WEAK_SANDBOX accepts this", f"{ADVICE}.")
    else:
        yield failed(f"{report.weakness}: the daemon does not start", f"{ADVICE}.")


@check("decoder", "the sandboxed decoder decodes a tone of half a second")
async def decoder(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    limits = DecodeLimits(settings.max_media_seconds, DECODE_TIMEOUT_SECONDS, settings.decode_memory_bytes)
    with tempfile.TemporaryDirectory(prefix="transcriptd-check-") as folder:
        source = Path(folder) / "tone.wav"
        _write_tone(source)
        try:
            pool = DecoderPool(Path(folder), Metrics(), allow_weak_sandbox=settings.allow_weak_sandbox)
            async with pool as decoder:
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
        yield failed(f"a tone of {TONE_SECONDS} s was decoded to {audio.duration_seconds} s of wrong audio", INSTALL)
        return
    yield passed("decodes")


def _write_tone(path: Path) -> None:
    count = round(TONE_SECONDS * SAMPLE_RATE)
    samples = (round(8000 * math.sin(2 * math.pi * 440 * index / SAMPLE_RATE)) for index in range(count))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(struct.pack(f"<{count}h", *samples))
