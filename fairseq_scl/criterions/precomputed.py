"""Run the stock criterion on precomputed logits."""

from typing import Any

from torch import Tensor, nn


class PrecomputedLogits:
    """Takes the place of the model when the stock criterion asks for logits.

    Cross-entropy, its logging and its metrics thus remain fairseq's own, while logits
    and features come from a single forward pass.
    """

    def __init__(self, model: nn.Module, logits: Tensor) -> None:
        self.model = model
        self.logits = logits

    def __call__(self, **_: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits, whatever the input."""
        return self.logits, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
