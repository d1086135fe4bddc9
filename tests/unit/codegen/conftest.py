"""`--update-golden` rewrites the kernels in tests/golden instead of comparing with them."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is generated now")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether to rewrite goldens; the option is unknown when pytest was not started on this folder."""
    return bool(request.config.getoption("--update-golden", default=False))
