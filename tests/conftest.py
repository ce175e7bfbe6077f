"""Fixtures shared by all test suites."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from daemon.config import Settings
from tests.support.aws.ec2 import FakeEc2
from tests.support.builders import some_settings

# The default profile is deterministic, so that a result changes only when the code does. It does not shrink, because
# shrinking one failure takes minutes. `make search` explores more examples and shrinks. Neither measures how fast examples
# are drawn: on a busy machine that health check fails without a fault.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.target)
COMMON: Any = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("gate", derandomize=True, phases=PHASES, **COMMON)
hypothesis.settings.register_profile("search", max_examples=1000, print_blob=True, **COMMON)
hypothesis.settings.load_profile("gate")


# Each folder of tests is a suite, and its name is a marker. The few long tests start first, so that no worker ends up
# running one of them alone. Tests that compute and tests that wait for daemons are mixed, because they use different
# resources. The many short unit tests run last and balance the workers.
TURNS = {"deploy": 0, "chaos": 0, "integration": 1, "acceptance": 1, "unit": 2}


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts background commands with SIGINT ignored, and nohup ignores SIGHUP. Processes under
    # test inherit that.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    for suite in TURNS:
        config.addinivalue_line("markers", f"{suite}: the tests in tests/{suite}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the suites; the order within a suite stays as pytest-randomly shuffled it."""
    for item in items:
        item.add_marker(_suite(item))
    items.sort(key=lambda item: TURNS[_suite(item)])


def _suite(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Build settings whose scratch directory belongs to the test."""

    def make(**changes: Any) -> Settings:
        return some_settings(**{"scratch_dir": tmp_path / "scratch", **changes})

    return make


@pytest.fixture
def ec2() -> Iterator[FakeEc2]:
    """Serve the instance metadata and the Auto Scaling group of a fake EC2 instance."""
    with FakeEc2() as fake:
        yield fake
