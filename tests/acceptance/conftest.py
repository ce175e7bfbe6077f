"""Fixtures that several acceptance tests share. Each module has its own `world`."""

from collections.abc import Iterator

import pytest

from bench.world import World
from tests.support.aws.gate import Gate


@pytest.fixture
def gate(world: World) -> Iterator[Gate]:
    with Gate(world.aws.endpoint_url) as gate:
        world.settings["AWS_ENDPOINT_URL"] = gate.url
        yield gate
