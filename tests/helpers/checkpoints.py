"""Load and compare the weights of checkpoints."""

import torch

from fairseq_scl.compat.checkpoints import load_checkpoint


def weights(checkpoint):
    """Load the parameters of a checkpoint."""
    return load_checkpoint(checkpoint)["model"]


def assert_same_weights(first, second, **tolerance):
    """Compare two checkpoints parameter by parameter; exactly by default."""
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    exact = {"rtol": 0, "atol": 0}
    for name, value in first.items():
        torch.testing.assert_close(
            second[name], value, **(tolerance or exact), msg=name
        )
