"""Images and a checkpoint for the tests of faults, and what an undisturbed run makes of them."""

from __future__ import annotations

import pytest
from faults.harness import Work, undisturbed


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """600 images."""
    return undisturbed(tmp_path_factory.mktemp("work"), 600, alone=False)


@pytest.fixture(scope="session")
def much_work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """5,000 images, scored in a process as those that are killed are."""
    return undisturbed(tmp_path_factory.mktemp("much"), 5_000, alone=True)
