"""FlashAttention's operator on a CPU, and counts of GPU kernels."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Views and allocations do not launch kernels.
FREE = ("view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "expand")
FREE += ("unsqueeze", "squeeze", "select", "slice", "split", "unbind", "unflatten")
FREE += ("as_strided", "alias", "detach", "empty", "empty_like", "new_empty")
FREE += ("lift_fresh", "split_with_sizes", "empty_strided", "is_same_size")


class Flash(torch.autograd.Function):
    """Compute ``aten._flash_attention_forward`` sentence by sentence.

    ``broken`` names one aspect to get wrong.
    """

    broken = ""
    calls = 0

    @classmethod
    def operator(cls, query, key, value, starts_q, starts_k, max_q, max_k, p, *flags):
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert max_q == starts_q.diff().max()
        assert max_k == starts_k.diff().max()
        assert flags == (False, False)
        cls.calls += 1
        if cls.broken == "absent":
            raise RuntimeError("not compiled with flash attention")
        if cls.broken == "starts":
            starts_q, starts_k = starts_q * 0, starts_k * 0
            starts_q[-1], starts_k[-1] = len(query), len(key)
        drop = 0.5 if cls.broken == "rate" and p else p
        masks = [
            (torch.rand(query.shape[1], *lengths) >= drop) / (1 - p)
            for lengths in zip(*_lengths(starts_q, starts_k), strict=True)
        ]
        return (cls.apply(query, key, value, starts_q, starts_k, masks),)

    @staticmethod
    def forward(ctx, query, key, value, starts_q, starts_k, masks):
        ctx.save_for_backward(query, key, value, starts_q, starts_k)
        ctx.masks = masks
        return _attend(query, key, value, starts_q, starts_k, masks)

    @staticmethod
    def backward(ctx, d_output):
        *rows, starts_q, starts_k = ctx.saved_tensors
        masks = ctx.masks
        if Flash.broken == "backward":
            masks = [mask.flip(-1) for mask in masks]
        rows = [part.detach().requires_grad_() for part in rows]
        with torch.enable_grad():
            output = _attend(*rows, starts_q, starts_k, masks)
        return *torch.autograd.grad(output, rows, d_output), None, None, None


def _lengths(*starts):
    return [s.diff().tolist() for s in starts]


def _attend(query, key, value, starts_q, starts_k, masks):
    queries, keys = _lengths(starts_q, starts_k)
    sentences = zip(
        *(query.split(queries), key.split(keys), value.split(keys)), masks, strict=True
    )
    outputs = []
    for q, k, v, mask in sentences:
        scores = torch.einsum("qhd,khd->hqk", q, k).double() / q.shape[-1] ** 0.5
        weights = scores.softmax(-1) * mask
        outputs.append(torch.einsum("hqk,khd->qhd", weights.to(v.dtype), v))
    return torch.cat(outputs)


class Kernels(TorchDispatchMode):
    """Counts the operators that launch a kernel."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        self.counts[name] += name not in FREE
        return function(*args, **(kwargs or {}))

    @property
    def total(self):
        return sum(self.counts.values())


class LikeCuda(TorchFunctionMode):
    """Meta tensors that use CUDA's fused attention and dropout; some padding."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.all:
            return False
        if function is torch.Tensor.any:
            return torch.tensor(True)
        if function is F.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        if function is F.dropout:
            return _dropped(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return operator(query, key, value, attn_mask, True, dropout_p)[0]


def _dropped(input, p=0.5, training=True, inplace=False):
    return torch.native_dropout(input, p, training)[0]


def count(forward):
    """Return the kernels of ``forward``, which returns a loss, and of its gradient."""
    with LikeCuda(), Kernels() as of_forward:
        loss = forward()
    with Kernels() as of_backward:
        loss.backward()
    return of_forward, of_backward
