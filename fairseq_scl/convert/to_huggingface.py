"""Convert a fine-tuned RoBERTa of fairseq to the names of ``transformers``."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from fairseq_scl.convert.classifier_head import HEAD_MODULES
from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.convert.encoder_weights import (
    ENCODER,
    FAIRSEQ_POSITION_OFFSET,
    LM_HEAD,
    POSITIONS,
    TOKEN_TYPES,
    WORDS,
    encoder_modules,
)
from fairseq_scl.errors import InputError

ModelType = Literal["bert", "roberta"]
MODEL_TYPES: dict[str, ModelType] = {"wordpiece": "bert", "gpt2": "roberta"}
ARCHITECTURES = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
}
# BERT's tokenizers give the second sentence of a pair the type 1.
TYPES = {"bert": 2, "roberta": 1}
UNUSED = (LM_HEAD, f"{ENCODER}version")


def encoder_shape(
    model: Any,
    model_type: ModelType,
    vocabulary: Sequence[int],
    pad: int,
    origin: object,
) -> EncoderConfig:
    """Describe the encoder of a loaded classifier as a Hugging Face configuration.

    Args:
        model: fairseq's ``RobertaModel``.
        model_type: ``"bert"`` or ``"roberta"``.
        vocabulary: for each token of the new vocabulary, its row in fairseq's.
        pad: id of padding in the new vocabulary.
        origin: the model, for messages.

    Raises:
        InputError: the model has settings that ``transformers`` does not support.
    """
    encoder, settings = model.encoder.sentence_encoder, model.args
    for name, value, only in (
        ("--activation-fn", settings.activation_fn, "gelu"),
        ("--pooler-activation-fn", settings.pooler_activation_fn, "tanh"),
    ):
        if value != only:
            raise InputError(
                f"{origin} was trained with {name} {value}, which a Hugging Face "
                f"classifier does not support; allowed: {only}"
            )
    positions = len(encoder.embed_positions.weight)
    unused = FAIRSEQ_POSITION_OFFSET if model_type == "bert" else 0
    return EncoderConfig(
        model_type=model_type,
        layers=len(encoder.layers),
        hidden=encoder.embed_tokens.embedding_dim,
        inner=encoder.layers[0].fc1.out_features,
        heads=encoder.layers[0].self_attn.num_heads,
        vocabulary_rows=len(vocabulary),
        position_rows=positions - unused,
        padding=pad,
        layer_norm_eps=float(encoder.layers[0].final_layer_norm.eps),
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
    )


def huggingface_config(shape: EncoderConfig, labels: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return {
        **msgspec.to_builtins(shape),
        "architectures": [ARCHITECTURES[shape.model_type]],
        "hidden_act": "gelu",
        "type_vocab_size": TYPES[shape.model_type],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def huggingface_weights(
    state: Mapping[str, Tensor],
    shape: EncoderConfig,
    rows: Sequence[int],
    head: str,
    origin: object,
) -> dict[str, Tensor]:
    """Return the tensors of ``model.safetensors``.

    The inverse of :func:`~fairseq_scl.convert.encoder_weights.fairseq_weights`: token
    types are zero, and the language model head is left out.

    Args:
        state: state dict of fairseq's ``RobertaModel``.
        shape: from :func:`encoder_shape`.
        rows: for each token of the new vocabulary, its row in fairseq's.
        head: name of the classification head.
        origin: the model, for messages.

    Raises:
        InputError: a weight is missing, has another shape, or lacks a counterpart; the
            message names it.
    """
    left = {name: t for name, t in state.items() if not name.startswith(UNUSED)}

    def take(name: str, size: tuple[int, ...] | None = None) -> Tensor:
        tensor = left.pop(name, None)
        if tensor is None or (size and tuple(tensor.shape) != size):
            found = "lacks it" if tensor is None else f"has {tuple(tensor.shape)}"
            raise InputError(
                f"{origin} {found}: a Hugging Face classifier needs {name}"
                + (f" of shape {size}" if size else "")
            )
        return tensor.detach().float()

    positions = take(f"{ENCODER}embed_positions.weight")
    words = take(f"{ENCODER}embed_tokens.weight")[torch.tensor(rows)]
    base = f"{shape.model_type}."
    tensors = {
        f"{base}{WORDS}": words,
        f"{base}{POSITIONS}": positions[-shape.position_rows :].contiguous(),
        f"{base}{TOKEN_TYPES}": torch.zeros(TYPES[shape.model_type], shape.hidden),
    }
    for ours, theirs, size in encoder_modules(shape):
        tensors[f"{base}{theirs}.weight"] = take(f"{ours}.weight", size)
        tensors[f"{base}{theirs}.bias"] = take(f"{ours}.bias", size[:1])
    for ours, theirs in HEAD_MODULES[shape.model_type].items():
        name = f"classification_heads.{head}.{ours}"
        square = (shape.hidden, shape.hidden) if ours == "dense" else None
        prefix = base if theirs.startswith("pooler") else ""
        tensors[f"{prefix}{theirs}.weight"] = take(f"{name}.weight", square)
        tensors[f"{prefix}{theirs}.bias"] = take(f"{name}.bias")
    if left:
        raise InputError(
            f"{origin} has {min(left)}, which {ARCHITECTURES[shape.model_type]} does "
            "not have"
        )
    return tensors
