"""Attention between packed rows: each row attends only to its own sentence."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_scl.packing.kernel import has_kernel, kernel_attention
from fairseq_scl.packing.layout import CpuDropout, Layout


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    layout: Layout,
    p: float,
    noise: CpuDropout | None,
) -> Tensor:
    """Compute softmax(Q Kᵀ / √d) V for each sentence and head.

    There are three equivalent implementations. With ``noise``, attention is computed by
    groups of equally long sentences, which is fastest on a CPU. Otherwise it uses
    FlashAttention for variable lengths if available (CUDA, half precision), or else
    PyTorch's attention on padded rows.

    Args:
        query: ``(N, D)``, or ``(B, D)``: one row per sentence, in the layout's order.
        key: ``(N, D)``.
        value: ``(N, D)``.
        heads: number of heads.
        layout: layout of the rows.
        p: dropout probability of the attention weights, 0 outside training.
        noise: source of dropout masks on a CPU; ``None`` on other devices.

    Returns:
        the output, with the shape and dtype of ``query``.
    """
    if noise is not None:
        grouped: Any = _GroupedAttention
        output: Tensor = grouped.apply(query, key, value, heads, layout, p, noise)
        return output
    if p < 1 and has_kernel(query.device, query.dtype, query.shape[1] // heads):
        return kernel_attention(query, key, value, heads, layout, p)
    return _padded_attention(query, key, value, heads, layout, p)


def _padded_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, layout: Layout, p: float
) -> Tensor:
    """Pad and mask the rows, unless all sentences are equally long."""
    sentences, one_each = len(layout.lengths), len(query) < len(key)
    mask = None if layout.is_even else layout.mask(query.dtype)

    def pad(rows: Tensor) -> Tensor:
        if not layout.is_even:
            padded = rows.new_zeros(sentences * layout.longest, rows.shape[1])
            rows = padded.index_copy_(0, layout.padded, rows)
        return rows.view(sentences, layout.longest, heads, -1).transpose(1, 2)

    rows = query.view(sentences, heads, 1, -1) if one_each else pad(query)
    output = F.scaled_dot_product_attention(rows, pad(key), pad(value), mask, p)
    output = output.transpose(1, 2).flatten(0, 1).flatten(1)
    if one_each or layout.is_even:
        return output
    return output.index_select(0, layout.padded)


class _GroupedAttention(torch.autograd.Function):
    """Batched matrix products without masks, one per run of equally long sentences.

    Rows are reordered to (sentence, head, token), where each run is one batch of
    matrices. The softmax weights of all runs are in one flat buffer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        layout: Layout,
        p: float,
        noise: CpuDropout,
    ) -> Tensor:
        ctx.runs = runs = _Runs(layout, heads, one_each=len(query) < len(key))
        scale = (query.shape[1] // heads) ** -0.5
        query = runs.by_head(query * scale, of_query=True)
        key, value = runs.by_head(key), runs.by_head(value)
        weights = query.new_empty(runs.size)
        for w, q, k in runs.split(weights, query, key):
            torch.bmm(q, k.transpose(1, 2), out=w)
            torch.softmax(w, -1, out=w)
        mask = noise.mask(runs.size, p, query.dtype) if p > 0 else None
        kept = weights if mask is None else weights * mask
        output = torch.empty_like(query)
        for w, o, v in runs.split(kept, output, value):
            torch.bmm(w, v, out=o)
        ctx.save_for_backward(query, key, value, weights, mask)
        ctx.scale = scale
        return runs.by_row(output, of_query=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, mask = ctx.saved_tensors
        runs: _Runs = ctx.runs
        d_output = runs.by_head(d_output, of_query=True)
        kept = weights if mask is None else weights * mask
        d_weights = torch.empty_like(weights)
        d_query, d_key, d_value = map(torch.empty_like, (query, key, value))
        for dw, do, v in runs.split(d_weights, d_output, value):
            torch.bmm(do, v.transpose(1, 2), out=dw)
        for w, do, dv in runs.split(kept, d_output, d_value):
            torch.bmm(w.transpose(1, 2), do, out=dv)
        if mask is not None:
            d_weights *= mask
        for (dw, q, k), (w, dq, dk) in zip(
            runs.split(d_weights, query, key),
            runs.split(weights, d_query, d_key),
            strict=True,
        ):
            d_scores = torch._softmax_backward_data(dw, w, -1, dw.dtype)
            torch.bmm(d_scores, k, out=dq)
            torch.bmm(d_scores.transpose(1, 2), q, out=dk)
        d_query *= ctx.scale
        return (
            runs.by_row(d_query, of_query=True),
            runs.by_row(d_key),
            runs.by_row(d_value),
            *(None, None, None, None),
        )


class _Runs:
    """The runs of equally long sentences of a layout, and access to their rows."""

    def __init__(self, layout: Layout, heads: int, one_each: bool) -> None:
        self.one_each = one_each
        self.heads = heads
        self.forth, self.back = layout.head_order(heads)
        self.keys = [(count * heads, length) for count, length in layout.groups]
        self.queries = [(n, 1 if one_each else length) for n, length in self.keys]
        pairs = zip(self.queries, self.keys, strict=True)
        self.weights = [(n, rows, length) for (n, rows), (_, length) in pairs]
        self.size = sum(n * rows * length for n, rows, length in self.weights)

    def by_head(self, rows: Tensor, of_query: bool = False) -> Tensor:
        """Reorder ``(N, D)`` rows to ``(N·H, d)``, by sentence, head and token."""
        rows = rows.reshape(len(rows) * self.heads, -1)
        moved = not (of_query and self.one_each)
        return rows.index_select(0, self.forth) if moved else rows

    def by_row(self, rows: Tensor, of_query: bool = False) -> Tensor:
        """Undo :meth:`by_head`."""
        moved = not (of_query and self.one_each)
        rows = rows.index_select(0, self.back) if moved else rows
        return rows.view(len(rows) // self.heads, -1)

    def split(
        self, weights: Tensor, queries: Tensor, keys: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the weights, query rows and key rows of each run as matrices."""
        parts = zip(
            weights.split([n * rows * length for n, rows, length in self.weights]),
            queries.split([n * rows for n, rows in self.queries]),
            keys.split([n * length for n, length in self.keys]),
            self.weights,
            strict=True,
        )
        for w, q, k, (n, rows, length) in parts:
            yield w.view(n, rows, length), q.view(n, rows, -1), k.view(n, length, -1)
