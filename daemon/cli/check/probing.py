"""Runs daemon/pipeline/probe.py, which loads torch and CTranslate2, in a child process."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress

from daemon.protocol.probe import ProbeResult
from daemon.supervisor.devices import Device
from daemon.supervisor.process import WITHHELD_PREFIXES

MAX_ERROR_CHARACTERS = 500


async def run_probe(device: Device) -> ProbeResult:
    """Probe the device. Raises RuntimeError with the last line of stderr if the process fails."""
    # The same environment as a runner process: no secrets, but the variables of the driver and the hub.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon.pipeline.probe", device.kind),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        process_group=0,
        env=environment | dict(device.environment),
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
        status = process.returncode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        raise RuntimeError(
            f"the process that loads torch and CTranslate2 {how}: {lines[-1].strip()[:MAX_ERROR_CHARACTERS]}"
        )
    return ProbeResult(**json.loads(output.splitlines()[-1]))  # libraries may print first
