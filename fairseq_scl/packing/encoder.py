"""RoBERTa on the real tokens of a batch only: no row is computed for padding.

``pack`` changes what the ``forward`` of a model does, not its weights: they stay the
stock model's, and so do checkpoints. Embeddings, linear layers, norms and feed-forward
layers see one row per token. The last layer computes the ``<s>`` rows alone, since that
is what a classification head reads.

A subclass of RoBERTa with a ``forward`` of its own can be packed if it says beside it
what it computes from hidden states: see :class:`ReadsStates`.
"""

import functools
from collections.abc import Collection
from typing import Any, Protocol

import torch
from fairseq.models.roberta.model import RobertaEncoder, RobertaModel
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules import LearnedPositionalEmbedding
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from fairseq_scl.errors import InputError
from fairseq_scl.packing.layers import hidden_states
from fairseq_scl.packing.layout import Layout

LENGTHS = "packed_lengths"


class HiddenStates(Protocol):
    """Computes the encoder on the real tokens of one batch; called once per pass."""

    def __call__(
        self, layers: Collection[int] = (), mean: bool = False
    ) -> list[Tensor]:
        """Return what heads read after some layers, and after the last.

        Args:
            layers: those besides the last, counted from 1.
            mean: of these the mean over the sentence's tokens, not the state at
                ``<s>``.

        Returns:
            ``(B, D)`` for each layer, in ascending order, in the order of the batch.
        """


class ReadsStates(Protocol):
    """A RoBERTa with a ``forward`` of its own that can be packed."""

    def packed_forward(
        self, states: HiddenStates, head: str, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return what its ``forward`` returns for a classification head.

        Args:
            states: computes the hidden states that it asks for.
            head: name of the classification head.
            kwargs: what else its ``forward`` got.
        """


def pack(model: nn.Module) -> nn.Module:
    """Have a model compute its classification heads on real tokens only.

    The same logits, gradients, state dict and hooks; of the encoder's output the head
    gets ``(B, 1, D)``, the ``<s>`` rows. A call without a head (language model,
    features of all tokens, all hidden states), or of a batch with padding elsewhere
    than at the right, goes the stock model's way.

    Args:
        model: a fairseq ``RobertaModel`` or subclass; changed in place.

    Returns:
        the same model.

    Raises:
        InputError: the model has a part that is not supported.
    """
    if reason := unsupported(model):
        raise InputError(f"--packed does not go with {reason}")
    if not is_packed(model):
        model.__class__ = _packed(type(model))  # type: ignore[arg-type]
    return model


@functools.cache
def _packed(plain: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass with the packed ``forward``.

    As an attribute of the model it would hold the model, which then stays in memory
    until the next garbage collection.
    """
    names = {"forward": _forward, "__module__": plain.__module__}
    return type(plain.__name__, (plain,), names)


def is_packed(model: nn.Module) -> bool:
    """Tell whether ``pack`` was applied to a model."""
    return type(model).forward is _forward


def unsupported(model: nn.Module) -> str | None:
    """Name what in a model keeps it from being packed, ``None`` if nothing does."""
    if (
        not isinstance(model, RobertaModel)
        or not _can_pack(type(model))
        or type(model.encoder) is not RobertaEncoder
        or type(model.encoder.sentence_encoder) is not TransformerEncoder
    ):
        return f"a {type(model).__name__}, only with RoBERTa as fairseq computes it"
    encoder: Any = model.encoder.sentence_encoder
    args = model.args
    layers = list(nn.ModuleList.__iter__(encoder.layers))  # LayerDrop's leaves some out
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
    """Tell whether ``forward`` is the stock one, or ``packed_forward`` is beside it."""
    owner: Any = next(cls for cls in kind.__mro__ if "forward" in vars(cls))
    forwards = (RobertaModel.forward, _forward)
    return owner.forward in forwards or "packed_forward" in vars(owner)


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer is fairseq's own: no wrapper, no override."""
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
    """``RobertaModel.forward``; ``packed_lengths`` holds the lengths as integers."""
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

    def states(layers: Collection[int] = (), mean: bool = False) -> list[Tensor]:
        encoder = self.encoder.sentence_encoder
        found = hidden_states(encoder, src_tokens, layout, layers, mean)
        return [state.index_select(0, layout.back) for state in found]

    if hasattr(self, "packed_forward"):
        output = self.packed_forward(states, classification_head_name, **kwargs)
        return output
    (state,) = states()
    logits = self.classification_heads[classification_head_name](state[:, None])
    return logits, {"inner_states": None}


def right_padded_lengths(tokens: Tensor, pad: int) -> list[int] | None:
    """Count the tokens of each sentence of a ``(B, T)`` batch.

    Waits for the device. Returns ``None`` where there is padding before a token, or a
    sentence without any.
    """
    real = tokens.ne(pad)
    lengths = real.sum(1)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    if not tokens.numel() or not torch.equal(real, columns < lengths[:, None]):
        return None
    found: list[int] = lengths.tolist()
    return found if min(found) > 0 else None
