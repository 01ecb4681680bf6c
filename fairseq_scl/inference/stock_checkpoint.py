"""Convert a checkpoint to one of the stock task, with plain values only."""

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fairseq.tasks.sentence_prediction import SentencePredictionConfig
from torch import Tensor

from fairseq_scl.convert.checkpoint import plain_checkpoint
from fairseq_scl.convert.encoder_config import STOCK_EPS
from fairseq_scl.models.exits import exits_of

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
    state: Mapping[str, Any], weights: "OrderedDict[str, Tensor]", head: str
) -> dict[str, Any]:
    """Return a checkpoint of the stock task and, where it can be, of the stock model.

    fairseq loads such a model without this package. Two kinds stay a ``roberta_bert``:
    layer norms with another epsilon than fairseq's RoBERTa has, as those of BERT, and
    heads that read the mean over the tokens.
    """
    model = plain_values(state["cfg"]["model"])
    eps = float(model.get("layer_norm_eps", STOCK_EPS))
    pooling = model.get("head_pooling", "cls")
    exits = exits_of(weights, head)
    model = {name: model[name] for name in MODEL_SETTINGS if name in model}
    if eps == STOCK_EPS and pooling == "cls":
        model |= {"_name": "roberta", "arch": "roberta"}
    else:
        model |= {"_name": "roberta_bert", "arch": "roberta_bert"}
        model |= {"layer_norm_eps": eps, "head_pooling": pooling}
    if len(exits) > 1:
        model["load_checkpoint_heads"] = True
    task = plain_values(state["cfg"]["task"])
    stock = {one.name for one in fields(SentencePredictionConfig)}
    task = {name: value for name, value in task.items() if name in stock}
    task |= {"_name": "sentence_prediction", "data": "."}
    return plain_checkpoint(model, task, weights)


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
