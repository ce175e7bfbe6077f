"""The unit: systemd accepts it, it is sandboxed, and its timeouts are consistent with those of the daemon and the
fleet."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from daemon.aws.interruption import SPOT_RESERVE_SECONDS
from daemon.config import Settings, variable
from daemon.credential_files import secret_names
from daemon.errors import EXIT_CONFIG
from daemon.launcher import EVENT_DRAIN_SECONDS, EXIT_FORCED, EXIT_HOST_ENDS, EXIT_SETUP_FAILED
from tests.support.deploy.module import optional_number
from tests.support.programs import require_program

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "transcriptd.service"
MAX_EXPOSURE = 3.0  # exposure of systemd-analyze security, from 0 (none) to 10


def directives() -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def seconds(name: str) -> float:
    return float(directives()[name][-1])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Write the unit as it would be in /etc, with a program that exists here."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text()))
    return unit


def analyze(*arguments: str | Path) -> str:
    command = [require_program("systemd-analyze"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_systemd_accepts_the_unit(installed: Path) -> None:
    assert analyze("verify", installed).strip() == ""


def test_unit_is_sandboxed(installed: Path) -> None:
    said = analyze("security", "--offline=true", "--no-pager", installed)
    exposure = re.search(r"Overall exposure level.*?: (\d+\.\d)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= MAX_EXPOSURE


def allowed_calls() -> set[str]:
    """Return the system calls that the unit allows, by the order of its filters."""
    groups: dict[str, set[str]] = {}
    for line in analyze("syscall-filter", "--no-pager").splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#"):
            members.add(line.strip())

    def calls(name: str) -> set[str]:
        return set[str]().union(*map(calls, groups[name])) if name.startswith("@") else {name}

    allowed = calls("@default")
    for words in directives()["SystemCallFilter"]:
        named = set[str]().union(*map(calls, words.removeprefix("~").split()))
        allowed = allowed - named if words.startswith("~") else allowed | named
    return allowed


def test_daemon_cannot_change_the_weights_it_loads() -> None:
    unit = directives()
    owners = {
        line.split()[1]: line.split()[3]
        for line in (FOLDER / "tmpfiles.conf").read_text().splitlines()
        if line[0] == "d"
    }
    assert owners["/var/cache/transcriptd"] not in ("-", *unit["User"])
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["ReadOnlyPaths"] == ["-/var/cache/transcriptd"]
    writable = [*unit["StateDirectory"], *unit["CacheDirectory"], *unit["ReadWritePaths"]]
    assert writable == ["transcriptd"], "the state directory alone"
    places = [
        value for line in unit["Environment"] for value in line.split() if value.startswith(("HF_HOME", "TORCH_HOME"))
    ]
    assert all("=/var/cache/transcriptd/" in place for place in places)
    assert len(places) == 2


def test_daemon_is_offline_and_has_no_secret_in_its_environment() -> None:
    unit = directives()
    variables = dict(item.split("=") for line in unit["Environment"] for item in line.split())
    assert (variables["HF_HUB_OFFLINE"], variables["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    secrets = set(secret_names(Settings).values())
    assert {line.partition(":")[0] for line in unit["LoadCredential"]} == secrets
    assert not secrets & variables.keys()
    example = (FOLDER / "transcriptd.env.example").read_text()
    assert not any(f"\n{name}=" in example or f"#{name}=" in example for name in secrets)


def test_unit_allows_the_sandboxes_of_decoder_and_runner() -> None:
    allowed = allowed_calls()
    assert {"prlimit64", "prctl", "capget", "capset", "seccomp"} <= allowed
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= allowed
    assert not {"ptrace", "mount", "bpf"} & allowed


def test_deadlines_of_daemon_unit_and_fleet_are_consistent() -> None:
    fields = Settings.model_fields
    drain = fields["drain_timeout_seconds"].default
    stop = seconds("TimeoutStopSec")
    assert optional_number("deadlines", "heartbeat") <= optional_number("deadlines", "visibility") / 3
    assert drain + EVENT_DRAIN_SECONDS < stop
    assert stop == optional_number("deadlines", "stop")
    assert stop < optional_number("deadlines", "termination_hook")
    assert fields["hook_heartbeat_seconds"].default * 3 < optional_number("deadlines", "termination_hook")
    assert optional_number("deadlines", "spot_margin") == SPOT_RESERVE_SECONDS
    attempts, start = fields["runner_start_attempts"].default, fields["runner_start_timeout_seconds"].default
    assert seconds("TimeoutStartSec") > attempts * start
    assert seconds("WatchdogSec") <= fields["visibility_timeout_seconds"].default


def test_only_the_daemon_gets_sigterm_and_stops_its_processes() -> None:
    """SIGTERM makes the daemon release its jobs, also when the watchdog sends it; systemd signals the runner only with
    the final SIGKILL."""
    unit = directives()
    assert unit["KillSignal"] == unit["WatchdogSignal"] == ["SIGTERM"]
    assert unit["KillMode"] == ["mixed"]
    assert "SendSIGKILL" not in unit
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]


def test_restarts_happen_only_where_they_may_help() -> None:
    never = {int(status) for status in directives()["RestartPreventExitStatus"][-1].split()}
    assert never == {EXIT_CONFIG, EXIT_HOST_ENDS}
    assert directives()["Restart"] == ["on-failure"]
    assert not {EXIT_FORCED, EXIT_SETUP_FAILED} & never


def test_example_contains_settings_of_the_daemon() -> None:
    known = {variable(name) for name in Settings.model_fields}
    named = re.findall(r"(?m)^#?([A-Z_]+)=", (FOLDER / "transcriptd.env.example").read_text())
    assert {name for name in named if not name.startswith("AWS_")} <= known
    assert {"TRANSCRIPTD_QUEUE_URL", "TRANSCRIPTD_DLQ_URL"} <= set(named)
