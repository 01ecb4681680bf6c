"""Incremental decoding of a batch of rows with cached keys and values.

``StockIncrementalDecoder`` calls the model's own incremental decoder and works with
every fairseq encoder-decoder. ``FastIncrementalDecoder`` computes the same for the
standard Transformer, but faster: it does not return attention weights, computes query,
key and value in one product, updates caches in place, and shares the source keys
between all copies of a source.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayer,
    TransformerDecoderLayerBase,
)
from torch import Tensor, nn


class IncrementalDecoder(Protocol):
    """A decoder in the middle of a batch."""

    def scores(self, previous: Tensor, step: int, temperature: float) -> Tensor:
        """Return scores of the next piece, divided by the temperature.

        Args:
            previous: ``(R, step + 1)`` int64, each row's output so far.
            step: number of this step, from 0.
            temperature: divisor of the scores.

        Returns:
            ``(R, V)``; the softmax gives the distribution.
        """

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows: ``(R',)`` int64, in ascending order."""


def start_decoding(
    model: Any, tokens: Tensor, lengths: Tensor, copies: int, limit: int
) -> IncrementalDecoder:
    """Encode sources once and start decoding ``copies`` rows for each.

    Args:
        model: a fairseq encoder-decoder.
        tokens: ``(S, L)`` int64 sources with padding.
        lengths: ``(S,)`` int64, in descending order.
        copies: rows per source; row ``s * copies + c`` is copy c of source s.
        limit: maximum number of steps.
    """
    encoded = model.encoder(tokens, src_lengths=lengths)
    if unsupported(model) is None:
        return FastIncrementalDecoder(model.decoder, encoded, copies, limit)
    return StockIncrementalDecoder(model, encoded, len(tokens), copies)


class StockIncrementalDecoder:
    """The model's own incremental decoder."""

    def __init__(self, model: Any, encoded: Any, sources: int, copies: int) -> None:
        """Expand the encoder's output for the copies of each source."""
        self._model = model
        self._state: dict[str, Any] = {}
        order = torch.arange(sources, device=next(model.parameters()).device)
        self._encoded = model.encoder.reorder_encoder_out(
            encoded, order.repeat_interleave(copies)
        )

    def scores(self, previous: Tensor, step: int, temperature: float) -> Tensor:
        """Return log-probabilities at the temperature, as fairseq computes them."""
        output = self._model.decoder(
            previous, encoder_out=self._encoded, incremental_state=self._state
        )
        return normalized(self._model, output, temperature)

    def keep(self, rows: Tensor) -> None:
        """Reorder fairseq's caches."""
        self._model.decoder.reorder_incremental_state_scripting(self._state, rows)
        self._encoded = self._model.encoder.reorder_encoder_out(self._encoded, rows)


def normalized(model: Any, output: Any, temperature: float) -> Tensor:
    """Return log-probabilities of the last position, as fairseq's EnsembleModel does.

    Returns:
        ``(R, V)``.
    """
    scaled = (output[0][:, -1:].div(temperature), *output[1:])
    found: Tensor = model.get_normalized_probs(scaled, log_probs=True, sample=None)
    return found[:, -1]


def unsupported(model: Any) -> str | None:
    """Return why ``FastIncrementalDecoder`` cannot run a model, or ``None``."""
    decoder = model.decoder
    if type(decoder) not in (TransformerDecoder, TransformerDecoderBase):
        return f"a decoder of type {type(decoder).__name__}"
    if type(decoder.output_projection) is not nn.Linear:
        return "an output that is not a single projection"
    if decoder.quant_noise or decoder.cross_self_attention or decoder.project_in_dim:
        return "quantization, cross-self-attention or a projection of the input"
    for layer in decoder.layers:
        if type(layer) not in (TransformerDecoderLayer, TransformerDecoderLayerBase):
            return f"a layer of type {type(layer).__name__}"
        scaled = (layer.c_attn, layer.attn_ln, layer.ffn_layernorm, layer.w_resid)
        if any(part is not None for part in scaled) or layer.encoder_attn is None:
            return "a layer with additional scales or without the source"
        for part in (layer.self_attn, layer.encoder_attn):
            if type(part) is not MultiheadAttention or part.use_xformers:
                return "another attention"
            if part.bias_k is not None or part.add_zero_attn:
                return "attention with additional keys"
        linear = (layer.fc1, layer.fc2, layer.self_attn.q_proj)
        if any(type(part) is not nn.Linear for part in linear):
            return "a layer that is quantized"
    return None


class FastIncrementalDecoder:
    """A fast incremental version of fairseq's standard Transformer decoder."""

    def __init__(self, decoder: Any, encoded: Any, copies: int, limit: int) -> None:
        """Compute keys and values of the sources for all layers."""
        states = encoded["encoder_out"][0].transpose(0, 1)  # (S, L, D)
        padding = encoded["encoder_padding_mask"][0]
        mask = None
        if padding.any():
            mask = torch.zeros_like(padding, dtype=states.dtype)
            mask = mask.masked_fill_(padding, float("-inf"))
        self._decoder = decoder
        rows = len(states) * copies
        self._grid = _Grid(len(states), copies, states.device)
        self._layers = [
            _Layer(layer, states, mask, rows, limit) for layer in decoder.layers
        ]

    def scores(self, previous: Tensor, step: int, temperature: float) -> Tensor:
        """Return logits divided by the temperature."""
        decoder = self._decoder
        x = decoder.embed_scale * decoder.embed_tokens(previous[:, -1])
        if decoder.embed_positions is not None:
            x = x + decoder.embed_positions(
                previous[:1],
                incremental_state={},  # only checked for None
            ).view(1, -1)
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        for layer in self._layers:
            x = layer(x, step, self._grid)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        # Scaled before the projection, where there are fewer numbers.
        return F.linear(x / temperature, decoder.output_projection.weight)

    def keep(self, rows: Tensor) -> None:
        """Keep the caches of these rows."""
        sources = self._grid.keep(rows)
        for layer in self._layers:
            layer.keep(rows, sources)


class _Grid:
    """Maps each row to its place in a grid of sources times copies."""

    def __init__(self, sources: int, copies: int, device: torch.device) -> None:
        self.sources, self.copies = sources, copies
        self.places = torch.arange(sources * copies, device=device)

    def keep(self, rows: Tensor) -> Tensor | None:
        """Keep rows; return the remaining sources, or ``None`` if all remain."""
        self.places = self.places[rows]
        source = self.places // self.copies
        left, number = source.unique_consecutive(return_inverse=True)
        if len(left) == self.sources:
            return None
        self.places += (number - source) * self.copies
        self.sources = len(left)
        return left

    def spread(self, queries: Tensor) -> Tensor:
        """Turn ``(R, D)`` into ``(S, C, D)``, with zeros for finished copies."""
        size = self.sources * self.copies
        if len(queries) < size:
            empty = queries.new_zeros(size, queries.shape[1])
            queries = empty.index_copy_(0, self.places, queries)
        return queries.view(self.sources, self.copies, -1)

    def gather(self, answers: Tensor) -> Tensor:
        """Turn ``(S, C, D)`` back into ``(R, D)``."""
        flat = answers.reshape(self.sources * self.copies, -1)
        return flat if len(self.places) == len(flat) else flat[self.places]


class _Layer:
    """One layer with its caches."""

    def __init__(
        self, layer: Any, states: Tensor, mask: Tensor | None, rows: int, limit: int
    ) -> None:
        self._layer = layer
        own, other = layer.self_attn, layer.encoder_attn
        self._heads, self._size = own.num_heads, own.head_dim
        parts = (own.q_proj, own.k_proj, own.v_proj)
        self._weight = torch.cat([part.weight for part in parts])
        self._bias = None
        if parts[0].bias is not None:
            self._bias = torch.cat([part.bias for part in parts])
        self._limit = limit
        shape = (rows, self._heads, 0, self._size)
        self._keys, self._values = states.new_empty(shape), states.new_empty(shape)
        self._source_keys = self._split(other.k_proj(states))
        self._source_values = self._split(other.v_proj(states))
        self._mask = None if mask is None else mask[:, None, None, :]

    def __call__(self, x: Tensor, step: int, grid: _Grid) -> Tensor:
        """Compute the output of the layer, ``(R, D)``."""
        layer, first = self._layer, self._layer.normalize_before
        residual = x
        x = layer.self_attn_layer_norm(x) if first else x
        x = residual + self._attend_to_output(x, step)
        x = x if first else layer.self_attn_layer_norm(x)
        residual = x
        x = layer.encoder_attn_layer_norm(x) if first else x
        x = residual + self._attend_to_source(x, grid)
        x = x if first else layer.encoder_attn_layer_norm(x)
        residual = x
        x = layer.final_layer_norm(x) if first else x
        x = residual + layer.fc2(layer.activation_fn(layer.fc1(x)))
        return x if first else layer.final_layer_norm(x)

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        self._keys, self._values = self._keys[rows], self._values[rows]
        if sources is not None:
            self._source_keys = self._source_keys[sources]
            self._source_values = self._source_values[sources]
            self._mask = None if self._mask is None else self._mask[sources]

    def _attend_to_output(self, x: Tensor, step: int) -> Tensor:
        if step >= self._keys.shape[2]:
            self._grow(step)
        both = F.linear(x, self._weight, self._bias)
        query, key, value = both.view(len(x), 3, self._heads, self._size).unbind(1)
        self._keys[:, :, step] = key
        self._values[:, :, step] = value
        found = F.scaled_dot_product_attention(
            query[:, :, None],
            self._keys[:, :, : step + 1],
            self._values[:, :, : step + 1],
        )
        return self._layer.self_attn.out_proj(found.view(len(x), -1))

    def _attend_to_source(self, x: Tensor, grid: _Grid) -> Tensor:
        attention = self._layer.encoder_attn
        query = self._split(grid.spread(attention.q_proj(x)))
        found = F.scaled_dot_product_attention(
            query, self._source_keys, self._source_values, attn_mask=self._mask
        )
        return attention.out_proj(grid.gather(found.transpose(1, 2)))

    def _split(self, x: Tensor) -> Tensor:
        """Turn ``(S, L, D)`` into ``(S, heads, L, D / heads)``."""
        return x.view(*x.shape[:2], self._heads, self._size).transpose(1, 2)

    def _grow(self, step: int) -> None:
        """Double the capacity of the caches, up to the maximum number of steps."""
        room = min(max(16, 2 * step), self._limit) - self._keys.shape[2]
        for name in ("_keys", "_values"):
            cache: Tensor = getattr(self, name)
            more = cache.new_empty(*cache.shape[:2], room, self._size)
            setattr(self, name, torch.cat([cache, more], dim=2))
