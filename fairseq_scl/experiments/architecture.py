"""The architecture of an encoder folder, as flags of ``fairseq-train``."""

import functools
import sys
from pathlib import Path
from typing import Any

from fairseq_scl.compat.checkpoints import (
    check_dictionary_size,
    check_finite,
    load_checkpoint,
)
from fairseq_scl.convert.encoder_config import STOCK_EPS
from fairseq_scl.convert.pooling import Pooling
from fairseq_scl.errors import InputError


@functools.cache
def architecture_flags(
    encoder: Path, max_positions: int, pooling: Pooling = "cls"
) -> list[str]:
    """Return the ``fairseq-train`` flags that build an encoder's architecture.

    The encoder folder may also be one published by fairseq. ``max_positions`` is
    lowered to the encoder's maximum.

    Raises:
        InputError: the folder lacks ``model.pt``, or it is not a RoBERTa model that
            matches the folder's dictionary, or it has a head that reads something else.
    """
    state = load_checkpoint(encoder / "model.pt")
    model = _model_settings(state)
    positions = [
        len(weight)
        for weight_name, weight in state.get("model", {}).items()
        if weight_name.endswith("embed_positions.weight")
    ]
    name = str(model.get("_name") or model.get("arch"))
    if not name.startswith("roberta") or not positions:
        raise InputError(f"{encoder / 'model.pt'} is a {name!r}, not a RoBERTa encoder")
    check_dictionary_size(state["model"], encoder, encoder / "model.pt")
    check_finite(state["model"], encoder / "model.pt")
    if name != "roberta_bert" and pooling == "mean":  # not in a stock architecture
        model = {"layer_norm_eps": STOCK_EPS, **model}
        name = "roberta_bert"
    flags = ["--arch", name]
    for setting in (
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
        "layer_norm_eps",
    ):
        if setting in model:
            flags += [f"--{setting.replace('_', '-')}", str(model[setting])]
    if pooling != "cls":
        flags += ["--head-pooling", pooling]
    has_head = any(key.startswith("classification_heads.") for key in state["model"])
    if has_head and (read := model.get("head_pooling", "cls")) != pooling:
        raise InputError(
            f"{encoder} has a classification head that reads {read}, but head_pooling "
            f"is {pooling}: set it to {read}, or export the model again with "
            "--encoder-only"
        )
    # Positions start at padding_idx + 1 = 2, so the first two rows are not positions.
    longest = min(max_positions, positions[0] - 2)
    return [*flags, "--max-positions", str(longest)]


def longest_input(encoder: Path, pooling: Pooling = "cls") -> int:
    """Return the maximum number of tokens of an encoder, special tokens included.

    Raises:
        InputError: as :func:`architecture_flags`.
    """
    return int(architecture_flags(encoder, sys.maxsize, pooling)[-1])


def encoder_pooling(encoder: Path) -> Pooling:
    """Return what classification heads of an encoder folder read, ``cls`` by default.

    Raises:
        InputError: the folder lacks ``model.pt``, or it is not a checkpoint.
    """
    model = _model_settings(load_checkpoint(encoder / "model.pt"))
    return "mean" if model.get("head_pooling") == "mean" else "cls"


def _model_settings(state: dict[str, Any]) -> dict[str, Any]:
    return vars(state["cfg"]["model"]) if state.get("cfg") else {}
