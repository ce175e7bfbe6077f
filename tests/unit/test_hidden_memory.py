"""Another process of the same user cannot read the daemon's secrets."""

import subprocess
import sys

import pytest

from bench.waiting import PATIENCE_SECONDS

SCRIPT = """
import ctypes, os, sys, time
from daemon.hidden_memory import PR_SET_DUMPABLE, hide_memory

def as_ordinary_user():
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # a change of the user clears it

def attempt(name):
    try:
        with open(f"/proc/{daemon}/{name}", "rb") as file:
            file.read(1)
    except OSError as error:
        return type(error).__name__
    return "read"

told, tell = os.pipe()
daemon = os.fork()
if daemon == 0:
    as_ordinary_user()
    if sys.argv[1] == "hidden":
        hide_memory()
    for name in ("stat", "limits", "maps"):  # what metrics read of this process
        open(f"/proc/self/{name}").read()
    os.listdir("/proc/self/fd")
    os.write(tell, b"x")
    time.sleep(600)
os.close(tell)
assert os.read(told, 1), "the daemon failed"
attacker = os.fork()
if attacker == 0:
    as_ordinary_user()
    print(attempt("environ"), attempt("maps"), flush=True)
    os._exit(0)
os.waitpid(attacker, 0)
os.kill(daemon, 9)
"""


@pytest.mark.parametrize(("how", "found"), [("open", "read read"), ("hidden", "PermissionError PermissionError")])
def test_secrets_are_hidden_from_processes_of_the_same_user(how: str, found: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.stdout.strip() == found, done.stderr
