"""The parts of `transcriptd check` that no machine shows on cue: GPUs of all kinds, checks that crash or hang, a terminal."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from daemon.devices import Device
from daemon.pipeline.probe import Facts
from daemon.tools.check.aws import Denied, explain
from daemon.tools.check.command import known_secrets, render, run_check, without
from daemon.tools.check.machine import judge_device
from daemon.tools.check.probing import run_probe
from daemon.tools.check.registry import (
    CHECKS,
    Check,
    Context,
    Ends,
    Finding,
    Status,
    failed,
    passed,
    skipped,
    warned,
)
from tests.conftest import settings_with

# An NVIDIA L4 with what a release asks for.
GPU = Facts(
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
    repositories={},
)
NO_GPU = replace(GPU, cuda=False, driver=None, device_name="", compute_types=["float32", "int8"])


@pytest.mark.parametrize(
    ("facts", "device", "compute_type", "status", "words"),
    [
        (GPU, "auto", "auto", "pass", "NVIDIA L4, driver 570.133.20, 23.0 of 24.0 GiB free, CUDA 12.8, cuDNN 9.10.2"),
        (replace(GPU, free_bytes=1024**3), "cuda", "auto", "warn", "1.0 of 24.0 GiB free"),
        (replace(GPU, torch_error="no kernel image is available"), "auto", "auto", "fail", "no kernel image"),
        (replace(GPU, cudnn=None), "auto", "auto", "fail", "no cuDNN"),
        (replace(GPU, ctranslate2_error="libcublas.so.12 is not found"), "auto", "auto", "fail", "libcublas.so.12"),
        (GPU, "auto", "int4", "fail", "no int4 here"),
        (NO_GPU, "auto", "auto", "warn", "there is no NVIDIA driver"),
        (NO_GPU, "cuda", "auto", "fail", "there is no NVIDIA driver"),
        (NO_GPU, "cpu", "auto", "pass", "as TRANSCRIPTD_DEVICES says"),
        (NO_GPU, "cpu", "float16", "fail", "no float16 here"),
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
def test_what_is_said_of_a_device(facts: Facts, device: str, compute_type: str, status: str, words: str) -> None:
    worst = judge_device(facts, device, compute_type)[-1]
    assert (worst.status, words in worst.found) == (status, True), worst


# --- checks that misbehave ----------------------------------------------------------------------------------------------


async def crashes(_: Context) -> AsyncGenerator[Finding, None]:
    yield passed("so far")
    raise KeyError("what nobody thought of")


async def hangs(_: Context) -> AsyncGenerator[Finding, None]:
    yield passed("so far")
    await asyncio.Event().wait()


async def ends(_: Context) -> AsyncGenerator[Finding, None]:
    yield passed("so far")
    raise Ends(skipped("no more", "Go on."))


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (crashes, "fail", "KeyError: 'what nobody thought of'"),
        (hangs, "fail", "after 0.05 s"),
        (ends, "skipped", "no more"),
    ],
)
async def test_whatever_becomes_of_a_check_is_a_finding(call: Any, status: str, words: str) -> None:
    async with Context(settings_with()) as context:
        first, last = await run_check(Check("one", "", "", 0.05, call), context)
    assert first == passed("so far")
    assert last.status == status
    assert words in last.found
    assert last.fix


async def test_libraries_that_do_not_load_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.tools.check.probing.sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exited with status 1: it said nothing"):
        await run_probe(Device("auto", "auto"))


# --- words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "words", "denied"),
    [
        ("KMS.DisabledException", "the key is disabled", "by KMS", True),
        ("AccessDenied", "not authorized to perform: kms:Decrypt", "by KMS", True),
        ("AccessDenied", "no", "s3:X is denied", True),
        ("RequestTimeTooSkewed", "too large", "of this clock", False),
        ("InvalidSignatureException", "Signature expired: 20260101", "of this clock", False),
        ("ExpiredToken", "expired", "refuses the credentials", False),
        ("PermanentRedirect", "elsewhere", "another region", False),
        ("NoSuchBucket", "none", "does not exist", False),
        ("SlowDown", "later", "s3:X failed (SlowDown: later)", False),
    ],
)
def test_what_aws_refuses_is_told_apart(code: str, message: str, words: str, denied: bool) -> None:
    end = explain(ClientError({"Error": {"Code": code, "Message": message}}, "X"), "s3:X", "s3://b/k")
    assert words in end.finding.found
    assert isinstance(end, Denied) is denied
    assert end.finding.fix


def test_secrets_are_hidden_also_in_what_others_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_first-secret-of-two whsec_second-secret-of-two")
    monkeypatch.setenv("hf_token", "hf_a-token-in-lower-case")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "short")
    told = "a short word, second-secret-of-two, hf_a-token-in-lower-case and whsec_first-secret-of-two"
    assert without(known_secrets(), told) == "a short word, ***, *** and ***"


def test_a_terminal_gets_a_table() -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=60, color_system=None)
    rows = [
        ("queue", passed("fine")),
        ("queue", warned("so\x1b[2Jso [red]", "Mend it.")),
        ("disk", failed("full " * 20, "Free some room.")),
    ]
    render(screen, rows)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("queue") == 1
    assert "so\\x1b[2Jso [red]" in text, "what strangers say commands no terminal"
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[-1] == "1 pass, 1 warn, 1 fail"


def test_every_check_says_what_it_is() -> None:
    for name, each in CHECKS.items():
        assert name == each.name
        assert each.about
        assert each.timeout_seconds > 0
    assert {status.value for status in Status} == {"pass", "warn", "fail", "skipped"}
