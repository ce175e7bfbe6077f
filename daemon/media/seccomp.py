"""A seccomp filter that lets a process read, write, allocate memory and exit, and nothing else. Linux on x86-64 and AArch64.

A system call that is not listed fails with EPERM. A call from another architecture's table (32-bit or x32 on x86-64) has
other numbers, so it kills the process.

Sources: linux/seccomp.h, linux/filter.h, linux/audit.h; system call numbers: asm/unistd_64.h, asm-generic/unistd.h.
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
KILL_PROCESS, REFUSE, ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000

LOAD_WORD, RETURN = 0x20, 0x06
JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT = 0x15, 0x35, 0x45
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
FIRST_ARGUMENT, ARGUMENT_BYTES = 16, 8
X32_BIT = 0x40000000

# Allowed with any argument, in the order of the filter. All of them concern the process itself, or an open file.
PLAIN = (
    "read lseek write futex brk munmap mremap madvise pread64 pwrite64 readv writev ftruncate fstat close getrandom "
    "clock_gettime clock_getres gettimeofday sched_yield getpid gettid sigaltstack rt_sigaction rt_sigprocmask rt_sigreturn "
    "restart_syscall exit exit_group"
).split()
# Allowed without PROT_EXEC, the third argument: the code is mapped, and no other may be added.
MAPPING = ("mmap", "mprotect")
# Allowed for a thread of this process: abort() raises SIGABRT so.
SIGNAL = "tgkill"


@dataclass(frozen=True, slots=True)
class Architecture:
    audit: int  # AUDIT_ARCH_*
    numbers: dict[str, int]
    has_x32: bool = False


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (item.partition("=") for item in text.split())}


ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        _numbers(
            "read=0 write=1 close=3 fstat=5 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 "
            "rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20 sched_yield=24 mremap=25 madvise=28 getpid=39 exit=60 "
            "ftruncate=77 gettimeofday=96 sigaltstack=131 gettid=186 futex=202 restart_syscall=219 clock_gettime=228 "
            "clock_getres=229 exit_group=231 tgkill=234 getrandom=318"
        ),
        has_x32=True,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        _numbers(
            "ftruncate=46 close=57 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 fstat=80 exit=93 "
            "exit_group=94 futex=98 clock_gettime=113 clock_getres=114 sched_yield=124 restart_syscall=128 tgkill=131 "
            "sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 gettimeofday=169 getpid=172 gettid=178 brk=214 "
            "munmap=215 mremap=216 mmap=222 mprotect=226 madvise=233 getrandom=278"
        ),
    ),
}


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_system_calls() -> None:
    """Install the filter in this process, irrevocably. The process must have one thread, and no_new_privs set.

    Raises OSError if the kernel, a container's profile or the architecture does not support it.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise OSError(errno.ENOSYS, f"no filter for the architecture {platform.machine()}")
    install(filter_program(architecture, os.getpid()))


def install(program: bytes) -> None:
    """Install a filter of BPF instructions. Raises OSError."""
    whole = _Program(len(program) // 8, program)
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def filter_program(architecture: Architecture, pid: int) -> bytes:
    """Return the filter's instructions for the process `pid`."""
    numbers = architecture.numbers
    return b"".join(
        chain(
            (_load(ARCHITECTURE), _jump(JUMP_IF_EQUAL, architecture.audit, no=0, yes=1), _return(KILL_PROCESS)),
            (_load(NUMBER),),
            (_jump(JUMP_IF_AT_LEAST, X32_BIT, yes=0, no=1), _return(KILL_PROCESS)) if architecture.has_x32 else (),
            *(_only_if(numbers[name], (_return(ALLOW),)) for name in PLAIN),
            *(_only_if(numbers[name], _without_bit(2, mmap.PROT_EXEC)) for name in MAPPING),
            _only_if(numbers[SIGNAL], _with_value(0, pid)),
            (_return(REFUSE),),
        )
    )


def _only_if(number: int, body: tuple[bytes, ...]) -> Iterator[bytes]:
    """Run `body`, which returns, for this system call only."""
    yield _jump(JUMP_IF_EQUAL, number, yes=0, no=len(body))
    yield from body


def _without_bit(argument: int, bit: int) -> tuple[bytes, ...]:
    return (
        _load(FIRST_ARGUMENT + argument * ARGUMENT_BYTES),
        _jump(JUMP_IF_ANY_BIT, bit, yes=0, no=1),
        _return(REFUSE),
        _return(ALLOW),
    )


def _with_value(argument: int, value: int) -> tuple[bytes, ...]:
    return (
        _load(FIRST_ARGUMENT + argument * ARGUMENT_BYTES),
        _jump(JUMP_IF_EQUAL, value, yes=0, no=1),
        _return(ALLOW),
        _return(REFUSE),
    )


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(LOAD_WORD, offset)


def _jump(code: int, value: int, *, yes: int, no: int) -> bytes:
    """Skip `yes` or `no` instructions."""
    return _instruction(code, value, yes=yes, no=no)


def _return(action: int) -> bytes:
    return _instruction(RETURN, action)
