"""A real browser for the tests of pages."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.browser import Page, chromium, open_page
from tests.support.programs import require_program


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[str]:
    async with chromium(require_program("chromium")) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: str) -> AsyncIterator[Page]:
    async with open_page(browser) as page:
        yield page
