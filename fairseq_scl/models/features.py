"""The model hook: a stock RoBERTa hands out the features that its head reads."""

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

    ``logits, extra = model(..., classification_head_name=head_name)`` then carries
    ``extra["classification_features"]``: Φ of section 2, Gunel et al. (2021), of shape
    ``(N, D)`` and in the dtype of the model, from that very pass and attached to its
    graph. They leave the model through its output, so that DistributedDataParallel
    sees them. Hooks are removed when the block ends, also by an exception.

    Args:
        model: a fairseq ``RobertaModel`` or subclass, bare or wrapped (data parallel).
        head_name: the classification head that the forward pass uses.
        kind: ``"cls"``, the final hidden state at ``<s>``, the head's input before its
            dropout; or ``"pooled"``, the input of the head's last projection (after
            dense, tanh and dropout); or ``"tokens"``, the final hidden states that the
            head gets, ``(N, T, D)``.
        key: under which ``extra`` carries them.
    """
    inner: Any = model
    while isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    head = inner.classification_heads[head_name]
    captured: list[Tensor] = []

    def capture_cls(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured[:] = [inputs[0][:, 0, :]]

    def capture_whole(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured[:] = [inputs[0]]

    def hand_out(_: nn.Module, __: Any, output: tuple[Tensor, dict[str, Any]]) -> Any:
        if not captured:  # a pass without this head
            return output
        logits, extra = output
        return logits, {**extra, key: captured.pop()}

    def forget(_: nn.Module, __: Any) -> None:
        captured.clear()  # what a pass that raised may have left

    handles = [inner.register_forward_pre_hook(forget)]
    if kind == "cls":
        handles.append(head.register_forward_pre_hook(capture_cls))
    else:
        reader = head if kind == "tokens" else head.out_proj
        handles.append(reader.register_forward_pre_hook(capture_whole))
    handles.append(inner.register_forward_hook(hand_out))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        captured.clear()


def states_arguments(kind: str) -> dict[str, Any]:
    """Return what the model's forward needs so that the head gets all of ``kind``.

    ``--packed`` computes the last layer at ``<s>`` alone, but for a call that wants all
    hidden states, which goes the stock way.
    """
    return {"return_all_hiddens": True} if kind == "mean" else {}


def captured_kind(kind: str) -> str:
    """Return what to capture in the model for states or features of a kind."""
    return "tokens" if kind == "mean" else kind


def sentence_states(captured: Tensor, tokens: Tensor, pad: int) -> Tensor:
    """Make one state of a sentence of what was captured.

    Args:
        captured: ``(N, D)``, taken as it is, or ``(N, T, D)``, averaged over the real
            tokens, ``<s>`` and ``</s>`` among them, in float32.
        tokens: ``(N, T)`` int64.
        pad: the id of padding.

    Returns:
        ``(N, D)``.
    """
    if captured.dim() == 2:
        return captured
    real = tokens.ne(pad).unsqueeze(2)
    rows = at_least_float32(captured).masked_fill(~real, 0.0)
    return rows.sum(dim=1) / real.sum(dim=1)


def unwrapped(model: Any) -> Any:
    """Return the model itself where it is wrapped for data parallel workers."""
    while hasattr(model, "module"):
        model = model.module
    return model
