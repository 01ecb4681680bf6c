"""The classification head of a fine-tuned Hugging Face model under fairseq's names."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.convert.encoder_weights import TOKEN_TYPES, SourceTensors

# By model type: from fairseq's module to that of transformers. BERT's dense layer is
# called the pooler; both models have a tanh between the two layers.
HEAD_MODULES = {
    "bert": {"dense": "pooler.dense", "out_proj": "classifier"},
    "roberta": {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
}


def classifier_weights(
    tensors: Mapping[str, Tensor],
    config: EncoderConfig,
    classes: int,
    head: str,
    origin: str | Path,
) -> "OrderedDict[str, Tensor]":
    """Return the head of a fine-tuned classifier under fairseq's names.

    Args:
        tensors: state dict of ``BertForSequenceClassification`` or
            ``RobertaForSequenceClassification``.
        config: the shape of the encoder.
        classes: number of labels, C.
        head: name of the classification head.
        origin: the file of the tensors, for messages.

    Returns:
        float32 weights and biases of ``dense``, ``(D, D)``, and ``out_proj``, ``(C,
        D)``.

    Raises:
        InputError: a tensor is missing, has another shape or dtype, or is not finite.
    """
    source = SourceTensors(tensors, config, origin)
    rows = {"dense": config.hidden, "out_proj": classes}
    state: OrderedDict[str, Tensor] = OrderedDict()
    for ours, theirs in HEAD_MODULES[config.model_type].items():
        name = f"classification_heads.{head}.{ours}"
        shape = (rows[ours], config.hidden)
        state[f"{name}.weight"] = source.take(f"{theirs}.weight", shape)
        state[f"{name}.bias"] = source.take(f"{theirs}.bias", shape[:1])
    return state


def reads_token_types(tensors: Mapping[str, Tensor], model_type: str) -> bool:
    """Return whether a model marks the second sentence of a pair by its token type."""
    types = tensors.get(TOKEN_TYPES, tensors.get(f"{model_type}.{TOKEN_TYPES}"))
    # RoBERTa's tokenizer gives every token the type 0.
    if model_type == "roberta" or types is None or len(types) < 2:
        return False
    return not torch.equal(types[0], types[1])
