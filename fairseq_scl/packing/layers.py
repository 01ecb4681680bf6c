"""fairseq's encoder on packed rows: embeddings, layers and the states at ``<s>``."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules.gelu import gelu as fairseq_gelu
from torch import Tensor

from fairseq_scl.packing.attention import attention
from fairseq_scl.packing.layout import CpuDropout, Layout


def hidden_states(
    encoder: Any,
    tokens: Tensor,
    layout: Layout,
    exits: Collection[int],
    mean: bool,
    tops: Sequence[str] = ("cls",),
) -> list[Tensor]:
    """Return the hidden states at ``<s>`` after some layers, including the last.

    Args:
        encoder: fairseq's transformer encoder.
        tokens: ``(B, T)``.
        layout: layout of the batch.
        exits: the layers other than the last, counted from 1.
        mean: for these layers, return the mean over the tokens instead.
        tops: poolings of the last layer's states, each ``cls`` or ``mean``. Without
            ``mean``, that layer computes only the ``<s>`` rows.

    Returns:
        ``(B, D)`` for each layer, then for each of ``tops``, in the layout's order.
    """
    noise = dropout_noise(tokens)
    x = embed(encoder, tokens, layout, noise)
    starts, states = layout.starts[:-1], []
    layers = list(encoder.layers)  # LayerDrop skips layers here
    for number, layer in enumerate(layers[:-1], start=1):
        x = layer_rows(layer, x, None, layout, noise)
        if number in exits:
            states.append(layout.means(x) if mean else x.index_select(0, starts))
    if "mean" in tops:
        for last in layers[-1:]:
            x = layer_rows(last, x, None, layout, noise)
        pooled = {"cls": x.index_select(0, starts), "mean": layout.means(x)}
        return [*states, *(pooled[top] for top in tops)]
    first = x.index_select(0, starts)
    for last in layers[-1:]:
        first = layer_rows(last, first, keys_and_values(last, x), layout, noise)
    return [*states, *(first for _ in tops)]


def dropout_noise(tokens: Tensor) -> CpuDropout | None:
    """Return the source of dropout masks for a batch; ``None`` for PyTorch's own."""
    on_cpu = tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return CpuDropout() if on_cpu else None


def embed(
    encoder: Any, tokens: Tensor, layout: Layout, noise: CpuDropout | None
) -> Tensor:
    """Return the input of the first layer: ``(N, D)``, one row per token."""
    x = encoder.embed_tokens(tokens.flatten().index_select(0, layout.index))
    if encoder.embed_scale != 1:
        x = x * encoder.embed_scale
    if encoder.embed_positions is not None:
        table = encoder.embed_positions
        offset = 0 if table.padding_idx is None else table.padding_idx + 1
        x = x + F.embedding(layout.positions + offset, table.weight)
    if encoder.layernorm_embedding is not None:
        x = encoder.layernorm_embedding(x)
    return _dropout(encoder.dropout_module, x, noise)


def keys_and_values(layer: Any, x: Tensor) -> Sequence[Tensor]:
    """Project all rows ``(N, D)`` to the keys and values of a layer."""
    return _project((layer.self_attn.k_proj, layer.self_attn.v_proj), x)


def _project(projections: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """Apply linear layers to the same rows, on a GPU as a single product.

    On a GPU, launching a kernel can cost more than running it. On a CPU, the weights
    would be copied for nothing, and the last bits of recorded results would change.
    """
    if not _on_gpu(x):
        return [projection(x) for projection in projections]
    weight = torch.cat([projection.weight for projection in projections])
    biases = [projection.bias for projection in projections]
    bias = None if biases[0] is None else torch.cat(biases)
    return F.linear(x, weight, bias).chunk(len(projections), dim=1)


def layer_rows(
    layer: Any,
    rows: Tensor,
    known: Sequence[Tensor] | None,
    layout: Layout,
    noise: CpuDropout | None,
) -> Tensor:
    """Compute one layer for some rows, which attend to those of the whole batch.

    Args:
        layer: fairseq's encoder layer.
        rows: all rows ``(N, D)``, or the ``<s>`` row of each sentence ``(B, D)``.
        known: keys and values of all rows; ``None`` if ``rows`` are all rows.
        layout: layout of all rows.
        noise: see :func:`dropout_noise`.

    Returns:
        the output, with the shape of ``rows``.
    """
    attn = layer.self_attn
    if known is None:
        key, value, query = _project((attn.k_proj, attn.v_proj, attn.q_proj), rows)
    else:
        (key, value), query = known, attn.q_proj(rows)
    p = _probability(attn.dropout_module)
    y = attention(query, key, value, attn.num_heads, layout, p, noise)
    y = _dropout(layer.dropout_module, attn.out_proj(y), noise)
    rows = layer.self_attn_layer_norm(rows + y)
    y = _activation(layer, layer.fc1(rows))
    y = layer.fc2(_dropout(layer.activation_dropout_module, y, noise))
    y = _dropout(layer.dropout_module, y, noise)
    output: Tensor = layer.final_layer_norm(rows + y)
    return output


def _activation(layer: Any, x: Tensor) -> Tensor:
    """Apply a layer's activation; on a GPU, apply gelu without copies in float32.

    PyTorch's kernel computes in float32 internally, so the result is the same.
    """
    if layer.activation_fn is fairseq_gelu and _on_gpu(x):
        return F.gelu(x)
    output: Tensor = layer.activation_fn(x)
    return output


def _on_gpu(x: Tensor) -> bool:
    return x.device.type != "cpu"


def _dropout(module: Any, x: Tensor, noise: CpuDropout | None) -> Tensor:
    p = _probability(module)
    if p == 0:
        return x
    return F.dropout(x, p) if noise is None else noise(x, p)


def _probability(module: Any) -> float:
    active = module.training or module.apply_during_inference
    return float(module.p) if active else 0.0
