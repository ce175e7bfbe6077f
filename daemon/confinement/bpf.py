"""Build and install system call filters: BPF programs for seccomp. Linux on x86-64 and AArch64.

A call from another architecture's table (32-bit or x32 on x86-64) has other numbers, so it kills the process.

Sources: linux/seccomp.h, linux/filter.h, linux/audit.h; system call numbers: asm/unistd_64.h, asm-generic/unistd.h.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
KILL_PROCESS, REFUSE, ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000

LOAD_WORD, RETURN = 0x20, 0x06
JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT = 0x15, 0x35, 0x45
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
FIRST_ARGUMENT, ARGUMENT_BYTES = 16, 8
X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class Architecture:
    audit: int  # AUDIT_ARCH_*
    numbers: dict[str, int]
    has_x32: bool = False


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (item.partition("=") for item in text.split())}


# Calls that have the same number on all architectures.
_RECENT = "pidfd_send_signal=424 io_uring_setup=425 io_uring_enter=426 io_uring_register=427 pidfd_getfd=438 "

ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        _numbers(
            "read=0 write=1 close=3 fstat=5 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 "
            "rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20 sched_yield=24 mremap=25 madvise=28 getpid=39 "
            "socket=41 connect=42 bind=49 listen=50 exit=60 ftruncate=77 gettimeofday=96 ptrace=101 sigaltstack=131 "
            "gettid=186 futex=202 restart_syscall=219 clock_gettime=228 clock_getres=229 exit_group=231 tgkill=234 "
            "add_key=248 request_key=249 keyctl=250 unshare=272 perf_event_open=298 setns=308 process_vm_readv=310 "
            "process_vm_writev=311 seccomp=317 getrandom=318 bpf=321 userfaultfd=323 " + _RECENT
        ),
        has_x32=True,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        _numbers(
            "ftruncate=46 close=57 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 fstat=80 exit=93 "
            "exit_group=94 unshare=97 futex=98 clock_gettime=113 clock_getres=114 ptrace=117 sched_yield=124 "
            "restart_syscall=128 tgkill=131 sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 "
            "gettimeofday=169 getpid=172 gettid=178 socket=198 bind=200 listen=201 connect=203 brk=214 munmap=215 "
            "mremap=216 add_key=217 request_key=218 keyctl=219 mmap=222 mprotect=226 madvise=233 perf_event_open=241 "
            "setns=268 process_vm_readv=270 process_vm_writev=271 seccomp=277 getrandom=278 bpf=280 userfaultfd=282 "
            + _RECENT
        ),
    ),
}


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def architecture() -> Architecture:
    """Return the architecture of this machine. Raises OSError if no filter can be built for it."""
    found = ARCHITECTURES.get(platform.machine()) if sys.platform == "linux" else None
    if found is None:
        raise OSError(errno.ENOSYS, f"no filter for {sys.platform} on {platform.machine()}")
    return found


def install(program: bytes) -> None:
    """Install a filter in this thread and its future children, irrevocably. no_new_privs must be set. Raises OSError."""
    whole = _Program(len(program) // 8, program)
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def install_in_all_threads(program: bytes) -> None:
    """Install a filter in every thread of this process, irrevocably. no_new_privs must be set. Raises OSError."""
    whole = _Program(len(program) // 8, program)
    number = ctypes.c_long(architecture().numbers["seccomp"])
    flags = ctypes.c_uint(SECCOMP_FILTER_FLAG_TSYNC)
    result = LIBC.syscall(number, ctypes.c_uint(SECCOMP_SET_MODE_FILTER), flags, ctypes.byref(whole))
    if result > 0:
        raise OSError(errno.EBUSY, f"thread {result} has another filter")
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def program(target: Architecture, *rules: Iterator[bytes], otherwise: int) -> bytes:
    """Return a filter of rules (`only_if`), which apply in this order; `otherwise` is the action for all other calls."""
    return b"".join(
        chain(
            (load(ARCHITECTURE), jump(JUMP_IF_EQUAL, target.audit, no=0, yes=1), action(KILL_PROCESS)),
            (load(NUMBER),),
            (jump(JUMP_IF_AT_LEAST, X32_BIT, yes=0, no=1), action(KILL_PROCESS)) if target.has_x32 else (),
            *rules,
            (action(otherwise),),
        )
    )


def only_if(number: int, body: tuple[bytes, ...]) -> Iterator[bytes]:
    """Run `body`, which returns an action, for this system call only."""
    yield jump(JUMP_IF_EQUAL, number, yes=0, no=len(body))
    yield from body


def without_bit(argument: int, bit: int) -> tuple[bytes, ...]:
    """Allow the call if the argument does not have the bit, and refuse it otherwise."""
    return (load_argument(argument), jump(JUMP_IF_ANY_BIT, bit, yes=0, no=1), action(REFUSE), action(ALLOW))


def with_value(argument: int, *values: int) -> tuple[bytes, ...]:
    """Allow the call if the lower half of the argument is one of the values, and refuse it otherwise."""
    comparisons = (jump(JUMP_IF_EQUAL, value, yes=len(values) - index, no=0) for index, value in enumerate(values))
    return (load_argument(argument), *comparisons, action(REFUSE), action(ALLOW))


def load(offset: int) -> bytes:
    return _instruction(LOAD_WORD, offset)


def load_argument(argument: int) -> bytes:
    """Load the lower half of an argument of the system call."""
    return load(FIRST_ARGUMENT + argument * ARGUMENT_BYTES)


def jump(code: int, value: int, *, yes: int, no: int) -> bytes:
    """Skip `yes` or `no` instructions."""
    return _instruction(code, value, yes=yes, no=no)


def action(result: int) -> bytes:
    return _instruction(RETURN, result)


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
