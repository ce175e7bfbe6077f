"""The decoder's system call filter: it may read, write, allocate memory and exit, and nothing else.

A system call that is not listed fails with EPERM.
"""

import mmap
import os

from daemon.confinement.bpf import (
    ALLOW,
    REFUSE,
    Architecture,
    action,
    architecture,
    install,
    only_if,
    program,
    with_value,
    without_bit,
)

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


def refuse_system_calls() -> None:
    """Install the filter in this process, irrevocably. The process must have one thread, and no_new_privs set.

    Raises OSError if the kernel, a container's profile or the architecture does not support it.
    """
    install(filter_program(architecture(), os.getpid()))


def filter_program(target: Architecture, pid: int) -> bytes:
    """Return the filter's instructions for the process `pid`."""
    numbers = target.numbers
    return program(
        target,
        *(only_if(numbers[name], (action(ALLOW),)) for name in PLAIN),
        *(only_if(numbers[name], without_bit(2, mmap.PROT_EXEC)) for name in MAPPING),
        only_if(numbers[SIGNAL], with_value(0, pid)),
        otherwise=REFUSE,
    )
