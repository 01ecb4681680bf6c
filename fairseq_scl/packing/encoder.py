"""RoBERTa on the real tokens of a batch, without computing padding.

``pack`` changes the ``forward`` of a model but not its weights, so checkpoints stay
those of the stock model. Embeddings, linear layers, norms and feed-forward layers see
one row per token. The last layer computes only the ``<s>`` rows if the classification
head reads nothing else.

A subclass of RoBERTa with its own ``forward`` can be packed if it also defines what it
computes from hidden states: see :class:`ReadsStates`.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from fairseq.models.roberta.model import RobertaEncoder, RobertaModel
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules import LearnedPositionalEmbedding
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from fairseq_scl.errors import InputError
from fairseq_scl.packing.graphs import CudaGraphs
from fairseq_scl.packing.layers import hidden_states
from fairseq_scl.packing.layout import Layout

LENGTHS = "packed_lengths"
GRAPHS = "cuda_graphs"
# Argument of ``forward``, and key of its ``extra`` output: another pooling of the final
# states than the head's, ``cls`` or ``mean``.
OTHER_POOLING = "other_pooling"


class ReadsStates(Protocol):
    """A RoBERTa with its own ``forward`` that can be packed."""

    def packed_forward(
        self, states: Callable[..., list[Tensor]], head: str, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the same as ``forward`` for a classification head.

        Args:
            states: ``states(layers, mean, top)`` runs the encoder on the real tokens of
                the batch; call it once. It returns the inputs of the heads after
                ``layers`` (counted from 1, by default none) and after the last layer,
                ``(B, D)`` each, in ascending order of layers and in the order of the
                batch. These are the states at ``<s>``, or the means over the tokens:
                with ``mean=True`` after ``layers``, with ``top="mean"`` after the last.
            head: name of the classification head.
            kwargs: the other arguments of ``forward``.
        """


def pack(model: nn.Module, cuda_graphs: bool = False) -> nn.Module:
    """Make a model compute its classification heads on real tokens only.

    Logits, gradients, state dict and hooks stay the same. The head gets ``(B, 1, D)``
    from the encoder: the ``<s>`` rows, or the means with ``--head-pooling mean``. Calls
    without a head (language model, features of all tokens, all hidden states) and
    batches that are not padded on the right use the stock code.

    Args:
        model: a fairseq ``RobertaModel`` or subclass; changed in place.
        cuda_graphs: replay training passes on a GPU, see
            :mod:`fairseq_scl.packing.graphs`.

    Returns:
        the same model.

    Raises:
        InputError: the model has a part that is not supported.
    """
    if reason := unsupported(model):
        raise InputError(f"--packed cannot be combined with {reason}")
    if not is_packed(model):
        model.__class__ = _packed(type(model))  # type: ignore[arg-type]
    if cuda_graphs:
        setattr(model, GRAPHS, CudaGraphs())
    return model


@functools.cache
def _packed(plain: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass with the packed ``forward``.

    A ``forward`` stored on the instance would reference the model and keep it in memory
    until the next garbage collection.
    """
    names = {"forward": _forward, "__module__": plain.__module__}
    return type(plain.__name__, (plain,), names)


def is_packed(model: nn.Module) -> bool:
    """Return whether ``pack`` was applied to a model."""
    return type(model).forward is _forward


def unsupported(model: nn.Module) -> str | None:
    """Name the part of a model that prevents packing, or return ``None``."""
    if (
        not isinstance(model, RobertaModel)
        or not _can_pack(type(model))
        or type(model.encoder) is not RobertaEncoder
        or type(model.encoder.sentence_encoder) is not TransformerEncoder
    ):
        return f"a {type(model).__name__}, only with RoBERTa as fairseq computes it"
    encoder: Any = model.encoder.sentence_encoder
    args = model.args
    # LayerDrop's own iterator skips layers.
    layers = list(nn.ModuleList.__iter__(encoder.layers))
    positions = encoder.embed_positions
    for found, flag in (
        (getattr(args, "quant_noise_pq", 0) > 0, "--quant-noise-pq"),
        (getattr(args, "quant_noise_scalar", 0) > 0, "--quant-noise-scalar"),
        (getattr(args, "checkpoint_activations", False), "--checkpoint-activations"),
        (getattr(args, "offload_activations", False), "--offload-activations"),
        (getattr(args, "adaptive_input", False), "--adaptive-input"),
        (encoder.layer_norm is not None, "--encoder-normalize-before"),
        (
            getattr(args, "mha_heads_to_keep", -1) != -1
            or getattr(args, "ffn_blocks_to_remove", -1) != -1,
            "--mha-heads-to-keep and --ffn-blocks-to-remove",
        ),
        (
            any(getattr(layer.self_attn, "use_xformers", False) for layer in layers),
            "--encoder-xformers-att-config",
        ),
        (
            positions is not None
            and not isinstance(positions, LearnedPositionalEmbedding),
            "positions that are not learned",
        ),
        (
            not all(_is_plain(layer) for layer in layers),
            "layers that are not fairseq's own, as with --ddp-backend fully_sharded",
        ),
    ):
        if found:
            return flag
    return None


def _can_pack(kind: type[RobertaModel]) -> bool:
    """Return whether ``forward`` is stock or comes with a ``packed_forward``."""
    owner: Any = next(cls for cls in kind.__mro__ if "forward" in vars(cls))
    forwards = (RobertaModel.forward, _forward)
    return owner.forward in forwards or "packed_forward" in vars(owner)


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is fairseq's own, without wrapper or override."""
    own = type(layer).forward is TransformerEncoderLayerBase.forward
    return own and "forward" not in vars(layer)


def _forward(
    self: Any,
    src_tokens: Tensor,
    features_only: bool = False,
    return_all_hiddens: bool = False,
    classification_head_name: str | None = None,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """``RobertaModel.forward`` on real tokens.

    ``packed_lengths`` has the lengths as integers. With ``other_pooling``, ``extra``
    has that pooling of the final states, ``(B, D)``.
    """
    lengths = kwargs.pop(LENGTHS, None)
    wanted = classification_head_name is not None and not return_all_hiddens
    if wanted and lengths is None:
        lengths = right_padded_lengths(src_tokens, self.encoder.dictionary.pad())
    if not wanted or lengths is None:
        stock: Any = type(self).__base__
        output: tuple[Tensor, dict[str, Any]] = stock.forward(
            self,
            src_tokens,
            features_only,
            return_all_hiddens,
            classification_head_name,
            **kwargs,
        )
        return output
    layout = Layout.of(lengths, src_tokens.shape[1], src_tokens.device)
    other = kwargs.pop(OTHER_POOLING, None)
    asked: dict[str, Tensor] = {}

    def states(
        layers: Collection[int] = (), mean: bool = False, top: str = "cls"
    ) -> list[Tensor]:
        encoder = self.encoder.sentence_encoder
        tops = [top] if other is None else [top, other]
        graphs = getattr(self, GRAPHS, None) if self.training else None
        if graphs and (layers or tops != ["cls"]):
            graphs.warn("it computes the final states at <s>, but the loss reads more")
            graphs = None
        replayed = graphs and graphs.states(encoder, src_tokens, layout)
        if replayed is not None:
            found = [replayed]
        else:
            found = hidden_states(encoder, src_tokens, layout, layers, mean, tops)
        found = [state.index_select(0, layout.back) for state in found]
        if other is not None:
            asked[OTHER_POOLING] = found.pop()
        return found

    if hasattr(self, "packed_forward"):
        logits, extra = self.packed_forward(states, classification_head_name, **kwargs)
        return logits, {**extra, **asked}
    (state,) = states()
    logits = self.classification_heads[classification_head_name](state[:, None])
    return logits, {"inner_states": None, **asked}


def right_padded_lengths(tokens: Tensor, pad: int) -> list[int] | None:
    """Count the tokens of each sentence of a ``(B, T)`` batch.

    This needs a device sync. Returns ``None`` if there is padding before a token or a
    sentence without tokens.
    """
    real = tokens.ne(pad)
    lengths = real.sum(1)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    if not tokens.numel() or not torch.equal(real, columns < lengths[:, None]):
        return None
    found: list[int] = lengths.tolist()
    return found if min(found) > 0 else None
