"""Fault: ``--amp`` divides gradients by the loss scale twice.

``clip_grad_norm`` unscales the gradients of PyTorch's optimizer, ``step`` hands the
scaler fairseq's wrapper around it, which the scaler takes for another optimizer and
unscales again. Adam's epsilon then weighs as much as the loss scale times itself.
Present in every version of fairseq.
"""

from typing import Any


def apply() -> None:
    """Have both calls name the same optimizer, so that the scaler unscales once."""
    from fairseq.optim.amp_optimizer import AMPOptimizer

    def step(self: Any) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step
