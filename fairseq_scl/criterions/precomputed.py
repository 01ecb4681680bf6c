"""The stock criterion on logits that were computed before."""

from typing import Any

from torch import Tensor, nn


class PrecomputedLogits:
    """Stands in for a model where the stock criterion calls it for its logits.

    So cross-entropy, its logging and its metrics stay fairseq's own, and the features
    come from the same forward pass as the logits.
    """

    def __init__(self, model: nn.Module, logits: Tensor) -> None:
        self.model = model
        self.logits = logits

    def __call__(self, **_: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits, whatever the input."""
        return self.logits, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
