from pathlib import Path

import pytest

from hwnas.predict.saving import save_predictor
from tests.predict.test_predictor import fitted


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor, written once: its plot takes longer than all else."""
    folder = tmp_path_factory.mktemp("predictor") / "p"
    save_predictor(fitted(), folder)
    return folder
