import pytest
import torch

from effssl.evaluation.retrieval import recall_at_1


def test_rows_that_are_nearest_to_their_own_are_counted():
    a = torch.eye(4) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert recall_at_1(a, 0.1 * torch.eye(4)) == 1
    assert recall_at_1(a, torch.eye(4)[[1, 0, 2, 3]]) == 0.5


def test_rows_that_have_nothing_to_do_with_each_other_are_found_by_chance():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, 16, generator=generator)
    assert recall_at_1(a, b) < 0.02
    assert recall_at_1(a, a + 0.5 * b) > 0.9
    assert recall_at_1(a + 3, a + 3) == pytest.approx(1)
