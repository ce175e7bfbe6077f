"""Parts of `transcriptd check` that no machine shows on demand: various GPUs, checks that crash or hang, a terminal."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from daemon.cli.check.aws import Denied, explain
from daemon.cli.check.command import known_secrets, render, run_check, without
from daemon.cli.check.machine import judge_device
from daemon.cli.check.probing import run_probe
from daemon.cli.check.registry import (
    CHECKS,
    Check,
    CheckAborted,
    CheckResult,
    CheckStatus,
    failed,
    passed,
    skipped,
    warned,
)
from daemon.config import Settings
from daemon.protocol.probe import ProbeResult
from daemon.supervisor.devices import Device
from tests.support.builders import some_settings

# An NVIDIA L4 with the device properties that a release requires.
GPU = ProbeResult(
    torch="2.8.0+cu128",
    torch_cuda="12.8",
    driver="570.133.20",
    cuda=True,
    device_name="NVIDIA L4",
    free_bytes=23 * 1024**3,
    total_bytes=24 * 1024**3,
    cudnn=91002,
    torch_error=None,
    ctranslate2="4.8.5",
    compute_types=["bfloat16", "float16", "float32", "int8", "int8_float16"],
    ctranslate2_error=None,
)
NO_GPU = replace(GPU, cuda=False, driver=None, device_name="", compute_types=["float32", "int8"])


@pytest.mark.parametrize(
    ("facts", "device", "compute_type", "status", "words"),
    [
        (GPU, "auto", "auto", "pass", "NVIDIA L4, driver 570.133.20, 23.0 of 24.0 GiB free, CUDA 12.8, cuDNN 9.10.2"),
        (replace(GPU, free_bytes=1024**3), "cuda", "auto", "warn", "1.0 of 24.0 GiB free"),
        (replace(GPU, torch_error="no kernel image is available"), "auto", "auto", "fail", "no kernel image"),
        (replace(GPU, cudnn=None), "auto", "auto", "fail", "does not find cuDNN"),
        (replace(GPU, ctranslate2_error="libcublas.so.12 is not found"), "auto", "auto", "fail", "libcublas.so.12"),
        (GPU, "auto", "int4", "fail", "does not support int4 here"),
        (NO_GPU, "auto", "auto", "warn", "no NVIDIA driver found"),
        (NO_GPU, "cuda", "auto", "fail", "no NVIDIA driver found"),
        (NO_GPU, "cpu", "auto", "pass", "as set by TRANSCRIPTD_DEVICES"),
        (NO_GPU, "cpu", "float16", "fail", "does not support float16 here"),
        (
            replace(NO_GPU, driver="470.57.02"),
            "auto",
            "auto",
            "warn",
            "driver 470.57.02, torch 2.8.0+cu128 for CUDA 12.8",
        ),
        (replace(NO_GPU, torch_cuda=None), "cuda", "auto", "fail", "built without CUDA"),
    ],
)
def test_report_on_a_device(facts: ProbeResult, device: str, compute_type: str, status: str, words: str) -> None:
    worst = judge_device(facts, device, compute_type)[-1]
    assert (worst.status, words in worst.found) == (status, True), worst


# --- failing checks ---------------------------------------------------------------------------------------------------


async def crashes(_: Settings) -> AsyncGenerator[CheckResult, None]:
    yield passed("so far")
    raise KeyError("unexpected failure")


async def hangs(_: Settings) -> AsyncGenerator[CheckResult, None]:
    yield passed("so far")
    await asyncio.Event().wait()


async def ends(_: Settings) -> AsyncGenerator[CheckResult, None]:
    yield passed("so far")
    raise CheckAborted(skipped("no more", "Go on."))


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (crashes, "fail", "KeyError: 'unexpected failure'"),
        (hangs, "fail", "after 0.05 s"),
        (ends, "skipped", "no more"),
    ],
)
async def test_failure_of_a_check_is_a_finding(call: Any, status: str, words: str) -> None:
    first, last = await run_check(Check("one", "", "", 0.05, call), some_settings())
    assert first == passed("so far")
    assert last.status == status
    assert words in last.found
    assert last.fix


async def test_libraries_that_do_not_load_are_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.cli.check.probing.sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exited with status 1: no output"):
        await run_probe(Device("auto", "auto"))


# --- output ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "words", "denied"),
    [
        ("KMS.DisabledException", "the key is disabled", "by KMS", True),
        ("AccessDenied", "not authorized to perform: kms:Decrypt", "by KMS", True),
        ("AccessDenied", "no", "s3:X is denied", True),
        ("RequestTimeTooSkewed", "too large", "made with this clock", False),
        ("InvalidSignatureException", "Signature expired: 20260101", "made with this clock", False),
        ("ExpiredToken", "expired", "rejects the credentials", False),
        ("PermanentRedirect", "elsewhere", "another region", False),
        ("NoSuchBucket", "none", "does not exist", False),
        ("SlowDown", "later", "s3:X failed (SlowDown: later)", False),
    ],
)
def test_denied_aws_calls_are_distinguished(code: str, message: str, words: str, denied: bool) -> None:
    end = explain(ClientError({"Error": {"Code": code, "Message": message}}, "X"), "s3:X", "s3://b/k")
    assert words in end.finding.found
    assert isinstance(end, Denied) is denied
    assert end.finding.fix


def test_secrets_are_redacted_in_external_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_first-secret-of-two whsec_second-secret-of-two")
    monkeypatch.setenv("hf_token", "hf_a-token-in-lower-case")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "short")
    told = "a short word, second-secret-of-two, hf_a-token-in-lower-case and whsec_first-secret-of-two"
    assert without(known_secrets(), told) == "a short word, ***, *** and ***"


def test_terminal_gets_a_table() -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=60, color_system=None)
    rows = [
        ("queue", passed("fine")),
        ("queue", warned("so\x1b[2Jso [red]", "Mend it.")),
        ("disk", failed("full " * 20, "Free some room.")),
    ]
    render(screen, rows)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("queue") == 1
    assert "so\\x1b[2Jso [red]" in text, "control characters in external messages are removed"
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[-1] == "1 pass, 1 warn, 1 fail"


def test_every_check_has_a_description() -> None:
    for name, each in CHECKS.items():
        assert name == each.name
        assert each.about
        assert each.timeout_seconds > 0
    assert {status.value for status in CheckStatus} == {"pass", "warn", "fail", "skipped"}
