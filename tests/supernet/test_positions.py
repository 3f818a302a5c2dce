"""Position tables at another image size."""

import pytest
import torch

from hwnas.errors import InputError
from hwnas.supernet.positions import resize_positions


def test_a_table_of_the_right_size_is_left_alone() -> None:
    table = torch.randn(1, 17, 3)
    assert resize_positions(table, tokens=17) is table


def test_the_row_of_the_class_token_stays_and_a_constant_stays_constant() -> None:
    table = torch.cat([torch.full((1, 1, 3), 9.0), torch.full((1, 16, 3), 2.0)], dim=1)
    resized = resize_positions(table, tokens=1 + 36)
    assert resized.shape == (1, 37, 3)
    assert resized[0, 0].tolist() == [9.0] * 3
    torch.testing.assert_close(resized[:, 1:], torch.full((1, 36, 3), 2.0))


@pytest.mark.parametrize("shape", [(), (17,), (17, 3), (1, 1, 17, 3), (2, 17, 3), (1, 0, 3), (1, 16, 0)])
def test_what_is_no_table_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"must have the shape \(1, tokens, channels\)") as caught:
        resize_positions(torch.zeros(shape), tokens=17)
    assert caught.value.got == shape


def test_tables_that_are_no_square_or_differ_in_the_class_token_are_refused() -> None:
    with pytest.raises(InputError, match="square grid"):
        resize_positions(torch.zeros(1, 15, 3), tokens=17)
    with pytest.raises(InputError, match="only one of the two"):
        resize_positions(torch.zeros(1, 16, 3), tokens=26)
