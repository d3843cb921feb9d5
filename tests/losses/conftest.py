import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep to the one thread that these sums need; more would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
