"""Fault: ``--amp`` divides gradients by the loss scale twice.

``clip_grad_norm`` unscales the gradients of PyTorch's optimizer. ``step`` then passes
the scaler fairseq's wrapper, which the scaler treats as another optimizer and unscales
again. In effect Adam's epsilon is multiplied by the loss scale. Present in every
version of fairseq.
"""

from typing import Any


def apply() -> None:
    """Pass the same optimizer in both calls, so that the scaler unscales once."""
    from fairseq.optim.amp_optimizer import AMPOptimizer

    def step(self: Any) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step
