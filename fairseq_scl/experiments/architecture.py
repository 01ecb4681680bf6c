"""The architecture of an encoder folder, as flags of ``fairseq-train``."""

import functools
from pathlib import Path

from fairseq_scl.compat.checkpoints import (
    check_dictionary_size,
    check_finite,
    load_checkpoint,
)
from fairseq_scl.errors import InputError


@functools.cache
def architecture_flags(encoder: Path, max_positions: int) -> list[str]:
    """Return the ``fairseq-train`` flags that build an encoder's architecture.

    Args:
        encoder: an encoder folder, converted by this package or published by fairseq.
        max_positions: longest input in tokens; lowered to the encoder's maximum.

    Raises:
        InputError: the folder lacks ``model.pt``, or it is not a RoBERTa model that
            matches the folder's dictionary.
    """
    state = load_checkpoint(encoder / "model.pt")
    model = vars(state["cfg"]["model"]) if state.get("cfg") else {}
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
    # Positions start at padding_idx + 1 = 2, so the first two rows are not positions.
    longest = min(max_positions, positions[0] - 2)
    return [*flags, "--max-positions", str(longest)]
