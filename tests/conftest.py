"""Real data when there is some, one thread, and a cache of the tests' own."""

import os
from pathlib import Path

import pytest
import torch

PROMISED = "LIKEWISE_CI" in os.environ


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, and none depends on how many threads there are."""
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not PROMISED:
        pytest.skip("takes a minute or two: set LIKEWISE_CI")
    if item.get_closest_marker("data") and not os.environ.get("LIKEWISE_DATA"):
        if PROMISED:
            pytest.fail("LIKEWISE_DATA is not set, but data was promised")
        pytest.skip("real data: set LIKEWISE_DATA to a folder with mnist/, fashion-mnist/, cifar10/, imagenette96/")


@pytest.fixture
def data() -> Path:
    """The folder of the real sets."""
    return Path(os.environ["LIKEWISE_DATA"])
