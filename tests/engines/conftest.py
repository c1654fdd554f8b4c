"""Fixtures: real nodes and directories, as processes; what the tests of Python's side begin with."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.engines.local_cluster import LocalCluster  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--binaries", required=True, help="folder of stemctl, stem-node and stem-directory")


@pytest.fixture
def new_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """new_cluster(nodes=2, dram="64MiB", ssd="0") starts one; all are stopped at the end."""
    started: list[LocalCluster] = []

    def start(**options: object) -> LocalCluster:
        # A socket's path is short: not pytest's own folder.
        cluster = LocalCluster(request.config.getoption("--binaries"), **options)
        started.append(cluster)
        return cluster

    yield start
    for cluster in started:
        cluster.down()


@pytest.fixture
def cluster(new_cluster) -> LocalCluster:
    """Two nodes and a directory."""
    return new_cluster()
