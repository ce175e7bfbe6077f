"""Find out at start whether this kernel can confine decoders and runners: children apply the layers and try what these refuse.

`python -I -m daemon.media.sandbox_probe` is the child. It prints the missing layers as one JSON line.
"""

import asyncio
import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.confinement.runner import runner_layers
from daemon.environment import minimal_environment
from daemon.errors import ConfigError, TranscriptdError
from daemon.media.sandbox import LAYERS, apply_layers, limit

TIMEOUT_SECONDS = 60.0
MEMORY_BYTES = 2**30
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, PTRACE_PEEKDATA, IO_URING_SETUP = 0x10000000, 2, 425
NO_PROCESS = 2**22 + 1  # above the largest PID
NEEDS = {layer.name: layer.needs for layer in LAYERS}

Missing = dict[str, str]  # the name of each missing layer, with the reason

WEAK = "the kernel cannot fully confine the decoders of untrusted media and the runners"
ADVICE = (
    "Use a kernel and a container runtime that offer both layers (docs/operations.md, “The sandbox of the decoder”), or "
    "accept the risk with TRANSCRIPTD_ALLOW_WEAK_SANDBOX=true"
)


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What this machine lacks to confine decoders and runners."""

    missing: Missing

    @property
    def weakness(self) -> str | None:
        """What is wrong, as a sentence; None if nothing is."""
        found = [f"{name} is missing ({reason})" for name, reason in self.missing.items()]
        return f"{WEAK}: {'; '.join(found)}" if found else None


async def probe_sandbox() -> SandboxReport:
    """Return what the kernel lacks. Raises TranscriptdError if the probe itself fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "daemon.media.sandbox_probe"),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=minimal_environment(),
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise TranscriptdError(f"the probe of the sandbox did not end within {TIMEOUT_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        return SandboxReport(json.loads(output))
    except ValueError:
        message = f"the probe of the sandbox failed (exit status {process.returncode})"
        raise TranscriptdError(message, detail=errors.decode(errors="replace")) from None


async def require_sandbox(*, allow_weak: bool) -> SandboxReport:
    """Return what the kernel lacks. Raises ConfigError if that is anything, unless `allow_weak`."""
    report = await probe_sandbox()
    if report.weakness and not allow_weak:
        raise ConfigError(f"{report.weakness}. {ADVICE}")
    return report


# --- the child: one function per act that a layer must refuse, which raises OSError -------------------------------


def _open_file() -> None:
    os.close(os.open(sys.executable, os.O_RDONLY))


def _list_folder() -> None:
    os.listdir("/")  # noqa: PTH208  # as an attacker would


def _create_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def _signal_parent() -> None:
    os.kill(os.getppid(), 0)


def _read_limits_of_parent() -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _execute() -> None:
    os.execve("/nonexistent", ["/nonexistent"], {})  # noqa: S606  # ENOENT where nothing refuses the call


def _trace() -> None:
    _check(LIBC.ptrace(PTRACE_PEEKDATA, NO_PROCESS, None, None))  # ESRCH where nothing refuses the call


def _unshare() -> None:
    _check(LIBC.unshare(CLONE_NEWUSER))


def _map_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def _trace_parent() -> None:
    os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY))


def _use_io_uring() -> None:
    _check(LIBC.syscall(ctypes.c_long(IO_URING_SETUP), ctypes.c_long(0), None))  # EINVAL where nothing refuses the call


def _check(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


FILE_ACTS: dict[str, Callable[[], None]] = {"open a file": _open_file, "list a folder": _list_folder}
ACTS = {
    "Landlock": FILE_ACTS,
    "seccomp": {
        **FILE_ACTS,
        "create a socket": _create_socket,
        "signal another process": _signal_parent,
        "read its limits": _read_limits_of_parent,
        "fork": _fork,
        "execute a program": _execute,
        "trace a process": _trace,
        "create a namespace": _unshare,
        "map code": _map_code,
    },
}
# For the runner, from which this program is hidden.
RUNNER_ACTS: dict[str, dict[str, Callable[[], None]]] = {
    "Landlock": {"open a hidden file": _open_file, "reach into another process": _trace_parent},
    "seccomp": {"create a socket": _create_socket, "trace a process": _trace, "use io_uring": _use_io_uring},
}
REFUSALS = {errno.EPERM, errno.EACCES, errno.EAGAIN}  # EAGAIN: a limit refuses to fork


def _is_possible(act: Callable[[], None]) -> bool:
    try:
        act()
    except OSError as error:
        return error.errno not in REFUSALS
    return True


def _missing(layers: Iterable[tuple[str, OSError | None]], acts: dict[str, dict[str, Callable[[], None]]]) -> Missing:
    """Return the layers that the kernel lacks, or that have no effect, with the reason."""
    missing = {}
    for name, error in layers:
        if error:
            missing[name] = f"{error.strerror}; it needs {NEEDS[name]}"
        elif possible := [act for act, attempt in acts[name].items() if _is_possible(attempt)]:
            missing[name] = f"a process can still {', '.join(possible)}"
    return missing


def _apply_runner_layers() -> Iterator[tuple[str, OSError | None]]:
    for name, apply in runner_layers([Path(sys.executable)], offline=True).items():
        error: OSError | None = None
        try:
            apply()
        except OSError as failure:
            error = failure
        yield name, error


def _probe_runner() -> Missing:
    """Return what a runner lacks: a child finds out, and this process stays as it is."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, json.dumps(_missing(_apply_runner_layers(), RUNNER_ACTS)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        content = report.read()
    os.waitpid(child, 0)
    found: Missing = json.loads(content)
    return found


def main() -> None:
    of_runner = _probe_runner()
    limit(memory_bytes=MEMORY_BYTES, cpu_seconds=TIMEOUT_SECONDS, file_bytes=0)
    missing = of_runner | _missing(((layer.name, error) for layer, error in apply_layers()), ACTS)
    print(json.dumps({layer.name: missing[layer.name] for layer in LAYERS if layer.name in missing}), flush=True)
    os._exit(0)  # the interpreter's own end would need more than the jail allows


if __name__ == "__main__":
    main()
