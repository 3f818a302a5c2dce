"""A bench, and one search on it that several test files look at."""

from typing import Any

import pytest

from hwnas.pipeline.search.run import SearchRun, search_networks
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import FIRST, options, write_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_bench(tmp_path_factory.mktemp("bench"), FIRST)


@pytest.fixture(scope="session")
def searched(bench: dict[str, Any]) -> SearchRun:
    """One search with rounds, verified by workers that measure at once."""
    return search_networks(options(bench), out=bench["runs"] / "whole", campaign_environment=FakeEnvironment().make())
