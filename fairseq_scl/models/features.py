"""The model hook: get the input of the classification head from a stock RoBERTa."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.models.pooling import head_pooling, pooled
from fairseq_scl.packing.encoder import OTHER_POOLING

FEATURES = ("cls", "pooled", "mean")
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
        kind: ``"cls"``: the final hidden state at ``<s>``; ``"mean"``: the mean of the
            final states over the real tokens, including ``<s>`` and ``</s>``, in
            float32 or float64; ``"pooled"``: the input of the head's last projection
            (after dense, tanh and dropout). The other two have the dtype of the model.
            Whichever of ``cls`` and ``mean`` the head reads is the head's input before
            its dropout.
        key: key of the features in ``extra``.
    """
    inner = unwrapped(model)
    head = inner.classification_heads[head_name]
    is_input = kind == head_pooling(inner)
    is_other = kind != "pooled" and not is_input
    captured: dict[str, Tensor] = {}

    def start(_: nn.Module, inputs: Any, kwargs: dict[str, Any]) -> Any:
        captured.clear()  # a pass that raised may have left something
        return (inputs, {**kwargs, OTHER_POOLING: kind}) if is_other else None

    def capture(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured["head"] = inputs[0][:, 0, :] if is_input else inputs[0]

    def capture_states(_: nn.Module, __: Any, output: tuple[Tensor, Any]) -> None:
        captured["states"] = output[0]

    def hand_out(
        _: nn.Module, inputs: Any, kwargs: dict[str, Any], output: tuple[Any, Any]
    ) -> Any:
        if "head" not in captured:  # the pass did not use this head
            return output
        logits, extra = output
        features = captured.pop("head")
        if is_other and OTHER_POOLING in extra:  # the model is packed
            features = extra[OTHER_POOLING]
        elif is_other:
            tokens = inputs[0] if inputs else kwargs["src_tokens"]
            pad = inner.encoder.dictionary.pad()
            features = pooled(captured.pop("states"), tokens, pad, kind)
        features = at_least_float32(features) if kind == "mean" else features
        return logits, {**extra, key: features}

    reader = head.out_proj if kind == "pooled" else head
    handles = [
        inner.register_forward_pre_hook(start, with_kwargs=True),
        reader.register_forward_pre_hook(capture),
        inner.register_forward_hook(hand_out, with_kwargs=True),
    ]
    if is_other:
        handles.append(inner.encoder.register_forward_hook(capture_states))
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
