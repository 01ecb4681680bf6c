"""Convert a checkpoint to one of the stock model and task, with plain values only."""

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fairseq.tasks.sentence_prediction import SentencePredictionConfig
from torch import Tensor

from fairseq_scl.convert.checkpoint import plain_checkpoint
from fairseq_scl.convert.encoder_config import STOCK_EPS
from fairseq_scl.convert.huggingface import fold_layer_norm_eps
from fairseq_scl.models.exits import SHALLOW_HEAD, exits_of
from fairseq_scl.models.roberta_bert import set_layer_norm_eps

# fairseq saves every flag of the training command; these define the model.
MODEL_SETTINGS = (
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"),
    *("encoder_attention_heads", "max_positions", "max_source_positions"),
    *("activation_fn", "pooler_activation_fn", "untie_weights_roberta"),
    *("dropout", "attention_dropout", "activation_dropout", "pooler_dropout"),
    *("encoder_layerdrop", "encoder_normalize_before", "encoder_learned_pos"),
    *("layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings"),
    *("spectral_norm_classification_head", "quant_noise_pq"),
    *("quant_noise_pq_block_size", "quant_noise_scalar", "adaptive_input"),
)


def stock_checkpoint(
    state: Mapping[str, Any],
    weights: "OrderedDict[str, Tensor]",
    head: str,
    trainable: bool = False,
) -> dict[str, Any]:
    """Return a checkpoint that fairseq can load without this package.

    A model whose heads read the mean over the tokens stays a ``roberta_bert``: fairseq
    alone would read the state at ``<s>`` and give other answers. If the checkpoint is
    to be ``trainable``, so does one with another epsilon in its layer norms, since the
    weights of :func:`rewritten` are for inference only.
    """
    model = plain_values(state["cfg"]["model"])
    eps = float(model.get("layer_norm_eps", STOCK_EPS))
    reads_mean = model.get("head_pooling", "cls") == "mean"
    is_stock = not reads_mean and (eps == STOCK_EPS or not trainable)
    if is_stock and eps != STOCK_EPS:
        weights = rewritten(weights, eps, STOCK_EPS)
    exits = exits_of(weights, head)
    model = {name: model[name] for name in MODEL_SETTINGS if name in model}
    name = "roberta" if is_stock else "roberta_bert"
    model |= {"_name": name, "arch": name}
    if not is_stock:
        model["layer_norm_eps"] = eps
    if reads_mean:
        model["head_pooling"] = "mean"
    if len(exits) > 1:
        model["load_checkpoint_heads"] = True
    task = plain_values(state["cfg"]["task"])
    stock = {one.name for one in fields(SentencePredictionConfig)}
    task = {name: value for name, value in task.items() if name in stock}
    task |= {"_name": "sentence_prediction", "data": "."}
    return plain_checkpoint(model, task, weights)


def eps_of(model: Any) -> float:
    """Return the epsilon of the layer norms of a loaded RoBERTa."""
    return float(model.encoder.sentence_encoder.layers[0].final_layer_norm.eps)


def rewritten(
    weights: Mapping[str, Tensor], source: float, target: float
) -> "OrderedDict[str, Tensor]":
    """Rewrite a classifier for another layer norm epsilon.

    See :func:`~fairseq_scl.convert.huggingface.fold_layer_norm_eps`; heads below the
    top read hidden states, which it scales.
    """
    folded = fold_layer_norm_eps(weights, source, target)
    for name, tensor in folded.items():
        part, _, rest = name.removeprefix("classification_heads.").partition(".")
        if SHALLOW_HEAD.search(part) and rest == "dense.weight":
            folded[name] = (tensor.double() * (source / target) ** 0.5).float()
    return folded


def undo_rewriting(model: Any, eps: float) -> None:
    """Rewrite a loaded classifier for the epsilon of its training."""
    if (stored := eps_of(model)) != eps:
        model.load_state_dict(rewritten(model.state_dict(), stored, eps))
        set_layer_norm_eps(model, eps)


def plain_values(settings: Any) -> dict[str, Any]:
    """Return the plain values among settings, given as a namespace or mapping."""
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    plain = (str, int, float, bool, type(None))
    return {
        name: value
        for name, value in dict(settings).items()
        if isinstance(value, plain) and name not in ("data", "user_dir", "save_dir")
    }
