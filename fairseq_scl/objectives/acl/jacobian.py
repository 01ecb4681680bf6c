"""The derivative of a classification head's logits at the features that it reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_scl.errors import InputError
from fairseq_scl.models.features import unwrapped
from fairseq_scl.models.pooling import head_pooling

JACOBIAN = "logit_jacobian"


@contextmanager
def logit_jacobian(model: nn.Module, head_name: str, kind: str) -> Iterator[None]:
    """Within the block, put ∂logits/∂Φ into the ``extra`` output of each forward pass.

    ``extra["logit_jacobian"]`` is ``(N, C, D)``, in the dtype of the features and
    without a graph. It belongs to that forward pass, including its dropout in the head.
    It is also available in passes without a graph, where only the head temporarily has
    one. The logits do not change, bit for bit. The cost is one backward pass through
    the head per class.

    Args:
        model: a fairseq ``RobertaModel`` or subclass, bare or wrapped.
        head_name: the classification head that the forward pass uses.
        kind: ``"pooled"``, or what the head reads, ``"cls"`` or ``"mean"``, as for
            :func:`fairseq_scl.models.features.classification_features`.

    Raises:
        InputError: the head does not read these features.
    """
    inner = unwrapped(model)
    head = inner.classification_heads[head_name]
    is_input = kind != "pooled"
    if is_input and kind != head_pooling(inner):
        raise InputError(
            f"--acl-grad with --scl-features {kind} needs a head that reads them, but "
            f"--head-pooling is {head_pooling(inner)}"
        )
    module = head if is_input else head.out_proj
    original = module.forward
    found: list[Tensor] = []

    def forward(rows: Tensor, **kwargs: Any) -> Tensor:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            point = rows[:, 0, :] if is_input else rows
            if not (keep and point.requires_grad):
                point = point.detach().requires_grad_()
            read = point.unsqueeze(1) if is_input else point
            logits: Tensor = original(read, **kwargs)
            columns = [
                torch.autograd.grad(column.sum(), point, retain_graph=True)[0]
                for column in logits.unbind(dim=1)
            ]
        found[:] = [torch.stack(columns, dim=1)]
        return logits if keep else logits.detach()

    def hand_out(_: nn.Module, __: Any, output: tuple[Tensor, dict[str, Any]]) -> Any:
        logits, extra = output
        return logits, {**extra, JACOBIAN: found.pop()} if found else extra

    handle = inner.register_forward_hook(hand_out)
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        handle.remove()
