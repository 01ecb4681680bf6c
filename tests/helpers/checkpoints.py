"""Load and compare the weights of checkpoints."""

import torch

from fairseq_scl.compat.checkpoints import load_checkpoint


def weights(checkpoint):
    """Load the parameters of a checkpoint."""
    return load_checkpoint(checkpoint)["model"]


def assert_same_weights(first, second, **tolerance):
    """Compare two checkpoints parameter by parameter; exactly by default."""
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(weights(second), weights(first), **(tolerance or exact))
