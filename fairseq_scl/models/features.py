"""The model hook: get the input of the classification head from a stock RoBERTa."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fairseq_scl.losses.shared import at_least_float32

FEATURES = ("cls", "pooled")
EXTRA_KEY = "classification_features"


@contextmanager
def classification_features(
    model: nn.Module, head_name: str, kind: str, key: str = EXTRA_KEY
) -> Iterator[None]:
    """Within the block, put Φ(x) into the ``extra`` output of each forward pass.

    ``logits, extra = model(..., classification_head_name=head_name)`` then returns
    ``extra["classification_features"]``: Φ of section 2, Gunel et al. (2021), of shape
    ``(N, D)``, from the same forward pass and attached to its graph. They are part of
    the model's output so that DistributedDataParallel sees them. The hooks are removed
    when the block ends, even after an exception.

    Args:
        model: a fairseq ``RobertaModel`` or subclass, bare or wrapped (data parallel).
        head_name: the classification head that the forward pass uses.
        kind: ``"cls"``: the final hidden state at ``<s>``, the head's input before its
            dropout; ``"pooled"``: the input of the head's last projection (after dense,
            tanh and dropout), both in the dtype of the model; ``"mean"``: the mean of
            the final states over the real tokens, including ``<s>`` and ``</s>``, in
            float32 or float64.
        key: key of the features in ``extra``.
    """
    inner = unwrapped(model)
    head = inner.classification_heads[head_name]
    captured: list[Tensor] = []

    def start(_: nn.Module, inputs: Any, kwargs: dict[str, Any]) -> Any:
        captured.clear()  # a pass that raised may have left something
        if kind == "mean":  # otherwise --packed computes the last layer only at <s>
            return inputs, {**kwargs, "return_all_hiddens": True}
        return None

    def capture(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured[:] = [inputs[0][:, 0, :] if kind == "cls" else inputs[0]]

    def hand_out(
        _: nn.Module, inputs: Any, kwargs: dict[str, Any], output: tuple[Any, Any]
    ) -> Any:
        if not captured:  # the pass did not use this head
            return output
        features = captured.pop()
        if kind == "mean":
            tokens = inputs[0] if inputs else kwargs["src_tokens"]
            real = tokens.ne(inner.encoder.dictionary.pad()).unsqueeze(2)
            rows = at_least_float32(features).masked_fill(~real, 0.0)
            features = rows.sum(dim=1) / real.sum(dim=1)
        logits, extra = output
        return logits, {**extra, key: features}

    reader = head.out_proj if kind == "pooled" else head
    handles = [
        inner.register_forward_pre_hook(start, with_kwargs=True),
        reader.register_forward_pre_hook(capture),
        inner.register_forward_hook(hand_out, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        captured.clear()


def unwrapped(model: Any) -> Any:
    """Return the module inside any data parallel wrappers."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model
