"""What code in a decoder may try. Each function runs in the jail, so it imports nothing and needs no file.

Signals have the number 0, and a mount has no target: where the jail fails, its test does no harm.
"""

# The calls that an attacker makes, and no others:
# ruff: noqa: PTH101, PTH104, PTH108, PTH116, PTH123, PTH208, PTH211

import ctypes
import errno
import io
import mmap
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, BinaryIO

from daemon.confinement.landlock import landlock_abi
from daemon.errors import TranscriptdError
from daemon.media.decode import decode

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_TRACEME = 16, 0
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
PR_SET_DUMPABLE, PR_SET_PDEATHSIG = 4, 1
MEBIBYTE = 2**20
ABI = landlock_abi()
# mov eax, 20 (getpid of 32-bit programs); int 0x80; ret
I386_GETPID = bytes.fromhex("b814000000cd80c3")
X32_GETPID = 0x40000000 + 39
# Mapped before the jail closes: inside, no code can be mapped.
CODE = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
CODE.write(I386_GETPID)


def _call(number: int, *arguments: int | bytes | None) -> None:
    passed = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    if LIBC.syscall(ctypes.c_long(number), *passed) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _outcome(act: Callable[[], object]) -> str:
    """Return `possible`, or the name of the error."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except RuntimeError as error:  # threading's only one
        return str(error)
    return "possible"


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(address)


def _send_descriptor(source: BinaryIO) -> None:
    message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, source.fileno().to_bytes(4, "little"))]
    _SOCKETS[0].sendmsg([b"x"], message)


_SOCKETS = socket.socketpair()  # closed in the decoder, whose descriptors these are no longer
_SYSTEM_CALLS: dict[str, tuple[Any, ...]] = {  # since Linux 5, calls have one number on all architectures
    "pidfd_send_signal": (424, 0, 0, None, 0),
    "io_uring_setup": (425, 1, bytes(120)),
    "open_tree": (428, AT_FDCWD, b"/", 0),
    "clone3": (435, bytes(88), 88),
    "openat2": (437, AT_FDCWD, b"/", bytes(24), 24),
    "pidfd_getfd": (438, 0, 0, 0),
}


def escape(source: BinaryIO, _: Sequence[BinaryIO]) -> dict[str, str]:
    """Try to get out. The first line of the source is a folder with another job's file and with sockets."""
    folder, port = source.readline().decode().split()
    parent = os.getppid()
    acts: dict[str, Callable[[], object]] = {
        "read /etc/passwd": lambda: _read("/etc/passwd"),
        "read another job's audio": lambda: _read(f"{folder}/other.f32"),
        "write another job's audio": lambda: os.open(f"{folder}/other.f32", os.O_WRONLY),
        "create a file": lambda: os.open(f"{folder}/new", os.O_WRONLY | os.O_CREAT),
        "remove a file": lambda: os.unlink(f"{folder}/other.f32"),
        "rename a file": lambda: os.rename(f"{folder}/other.f32", f"{folder}/renamed"),
        "change a file's mode": lambda: os.chmod(f"{folder}/other.f32", 0o777),
        "look at a file": lambda: os.stat(f"{folder}/other.f32"),
        "link to a file": lambda: os.symlink("/etc/passwd", f"{folder}/link"),
        "list a folder": lambda: os.listdir(folder),
        "change the folder": lambda: os.chdir("/"),
        "read the parent's environment": lambda: _read(f"/proc/{parent}/environ"),
        "read the parent's memory": lambda: _read(f"/proc/{parent}/mem"),
        "open an inherited file again": lambda: _read(f"/proc/self/fd/{source.fileno()}"),
        "connect to a path socket": lambda: _connect(socket.AF_UNIX, f"{folder}/socket"),
        "connect to TCP": lambda: _connect(socket.AF_INET, ("127.0.0.1", int(port))),
        "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "make a socket pair": socket.socketpair,
        "signal the parent": lambda: os.kill(parent, 0),
        "signal every process": lambda: os.kill(-1, 0),
        "signal a thread of the parent": lambda: _check(LIBC.tgkill(parent, parent, 0)),
        "signal the group": lambda: os.killpg(0, 0),
        "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (0, 0)),
        "raise its own limits": lambda: resource.prlimit(0, resource.RLIMIT_CPU, (9, 9)),
        "trace the parent": lambda: _check(LIBC.ptrace(PTRACE_ATTACH, parent, None, None)),
        "be traced": lambda: _check(LIBC.ptrace(PTRACE_TRACEME, 0, None, None)),
        "read the parent's memory by a call": lambda: _check(LIBC.process_vm_readv(parent, None, 0, None, 0, 0)),
        "survive the parent": lambda: _check(LIBC.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)),
        "unshare": lambda: _check(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET)),
        "enter a namespace": lambda: _check(LIBC.setns(source.fileno(), 0)),
        "mount": lambda: _check(LIBC.mount(b"none", b"/nonexistent", b"tmpfs", 0, None)),
        "change the root": lambda: os.chroot("/"),
        "become root": lambda: os.setuid(0),
        "fork": _fork,
        "start a thread": lambda: threading.Thread(target=int).start(),
        "execute": lambda: os.execv("/bin/true", ["/bin/true"]),
        "make a memory file": lambda: os.memfd_create("x"),
        "map code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "make memory executable": lambda: _check(
            LIBC.mprotect(ctypes.c_void_p(_writable_page()), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        ),
        "send a descriptor": lambda: _send_descriptor(source),
        "duplicate a descriptor": lambda: os.dup(source.fileno()),
        **{name: partial(_call, *call) for name, call in _SYSTEM_CALLS.items()},
    }
    return {name: _outcome(act) for name, act in acts.items()}


def escape_landlock(source: BinaryIO, _: Sequence[BinaryIO]) -> dict[str, str]:
    """Try what Landlock refuses alone, without seccomp. Its input is that of `escape`."""
    folder, port = source.readline().decode().split()
    acts: dict[str, Callable[[], object]] = {
        "read /etc/passwd": lambda: _read("/etc/passwd"),
        "read another job's audio": lambda: _read(f"{folder}/other.f32"),
        "write another job's audio": lambda: os.open(f"{folder}/other.f32", os.O_WRONLY),
        "create a file": lambda: os.open(f"{folder}/new", os.O_WRONLY | os.O_CREAT),
        "remove a file": lambda: os.unlink(f"{folder}/other.f32"),
        "link to a file": lambda: os.symlink("/etc/passwd", f"{folder}/link"),
        "list a folder": lambda: os.listdir(folder),
        "execute": lambda: os.execv("/bin/true", ["/bin/true"]),
    }
    if ABI >= 4:
        acts["connect to TCP"] = lambda: _connect(socket.AF_INET, ("127.0.0.1", int(port)))
    if ABI >= 6:
        acts["signal the parent"] = lambda: os.kill(os.getppid(), 0)
    return {name: _outcome(act) for name, act in acts.items()}


def break_out(source: BinaryIO, _: Sequence[BinaryIO]) -> dict[str, str]:
    """Do some of it where there is no jail. Its input is that of `escape`."""
    folder, port = source.readline().decode().split()
    acts: dict[str, Callable[[], object]] = {
        "read another job's audio": lambda: _read(f"{folder}/other.f32"),
        "list a folder": lambda: os.listdir(folder),
        "look at a file": lambda: os.stat(f"{folder}/other.f32"),
        "remove a file": lambda: os.unlink(f"{folder}/other.f32"),
        "connect to a path socket": lambda: _connect(socket.AF_UNIX, f"{folder}/socket"),
        "connect to TCP": lambda: _connect(socket.AF_INET, ("127.0.0.1", int(port))),
        "signal the parent": lambda: os.kill(os.getppid(), 0),
        "limit the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "map code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    }
    return {name: _outcome(act) for name, act in acts.items()}


def decode_and_watch(source: BinaryIO, _: Sequence[BinaryIO]) -> dict[str, Any]:
    """Decode, and return the outcome with what Python imported or opened in the jail."""
    seen: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("import", "open", "os.listdir", "ctypes.dlopen", "socket.__new__", "_thread.start_new_thread"):
            seen.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    outcome = "audio"
    try:
        decode(source, [io.BytesIO() for _ in range(8)], 120, audio_track=None, split=False)
    except TranscriptdError as error:
        outcome = error.code
    return {"outcome": outcome, "seen": seen}


def _writable_page() -> int:
    address = ctypes.addressof(ctypes.c_char.from_buffer(_PAGE))
    return address - address % mmap.PAGESIZE


_PAGE = mmap.mmap(-1, 2 * mmap.PAGESIZE)


def work(source: BinaryIO, targets: Sequence[BinaryIO]) -> dict[str, Any]:
    """Do what a decoder needs."""
    memory = bytearray(64 * MEBIBYTE)
    memory[::4096] = b"x" * len(memory[::4096])
    del memory
    source.seek(0)
    content = source.read()
    for target in targets:
        target.write(content)
        target.flush()
        target.seek(0)
        target.truncate()
    return {"read": content.decode()}


def fail(_: BinaryIO, __: Sequence[BinaryIO]) -> None:
    raise RuntimeError("a bug of ours")


def abort(_: BinaryIO, __: Sequence[BinaryIO]) -> None:
    os.abort()


def use_x32_calls(_: BinaryIO, __: Sequence[BinaryIO]) -> None:
    _call(X32_GETPID)


def use_32_bit_calls(_: BinaryIO, __: Sequence[BinaryIO]) -> None:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(CODE)))()
