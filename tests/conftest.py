"""What every test shares: checked annotations, one thread a worker, a fixed seed, no network, the shared folder."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may depend on what a hub answers

import jaxtyping

from tests import checked

PACKAGES = ["saes", "circuits", "boardgames", "shift", "kibitz"]
# every signature and dataclass of ours is checked on each call; this must come before the first import of a package
jaxtyping.install_import_hook(PACKAGES, f"{checked.__name__}.checked")

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"
# `make test` runs two workers: many small tensors gain nothing from two threads each, and pay for waiting
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state and threads, in whatever order and on whatever worker it runs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the clone; tests that need it are skipped, with a reason, without it."""
    if not SHARED.is_dir():
        pytest.skip("the reference data (a folder `shared` beside the clone) is not here")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
