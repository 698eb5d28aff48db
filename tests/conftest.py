"""Every test draws from its own seeded stream and leaves the global state of torch as it was."""

import pytest
import torch

pytest.register_assert_rewrite("laws")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def isolated():
    """Seed and fork the random numbers; fail a test that leaks a global setting."""
    before = (torch.get_default_dtype(), torch.is_grad_enabled())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    """Both precisions; ``catalogue.EXACT`` holds the bound that goes with each."""
    return request.param
