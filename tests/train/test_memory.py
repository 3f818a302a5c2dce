"""What a training will need, and what is said where that is more than there is."""

from dataclasses import replace

import pytest
import torch

from hwnas.errors import InputError
from hwnas.train.memory import MemoryEstimate, explain_out_of_memory, memory_warning
from hwnas.train.options import TrainOptions, resolved
from hwnas.train.presets import MICRO

CONFIG = resolved(TrainOptions(space="autoformer-micro", data="digits"), num_classes=10)
NEED = MemoryEstimate(state_bytes=10_000_000, activation_bytes=1_000_000, num_images=128, free_bytes=200_000_000)


def test_what_fits_needs_no_words() -> None:
    assert NEED.total_bytes == 138_000_000
    assert memory_warning(NEED, MICRO) is None
    assert memory_warning(replace(NEED, free_bytes=None), MICRO) is None


def test_a_warning_names_the_batch_that_fits() -> None:
    warning = memory_warning(replace(NEED, free_bytes=50_000_000), MICRO)
    assert warning is not None
    assert warning.startswith(
        "needs about 138 MB of memory, 50 MB are free; try --set grad_accum_steps=4: 128 images per step"
    )
    warning = memory_warning(replace(NEED, free_bytes=10_500_000), MICRO)
    assert warning is not None
    assert warning.endswith("try a smaller --batch")


def test_weights_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(InputError, match=r"optimizer.s state must fit") as caught:
        memory_warning(replace(NEED, free_bytes=5_000_000), MICRO)
    assert caught.value.got == "10 MB, of which 5 MB are free"


def test_an_allocation_that_fails_says_which_batch_would_fit() -> None:
    with pytest.raises(InputError, match="128 images at once must fit") as caught, explain_out_of_memory(CONFIG):
        torch.empty(1 << 45, dtype=torch.uint8)
    assert caught.value.hint == "--set grad_accum_steps=2: 128 images per step as before, 64 at once"
