"""The weights of a Hugging Face encoder under the names of fairseq's RoBERTa."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fairseq_scl.compat.checkpoints import (
    check_archive,
    check_finite,
    check_tensors,
    short_reason,
)
from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.data.files import read_json
from fairseq_scl.errors import InputError, first_few

ENCODER = "encoder.sentence_encoder."
LM_HEAD = "encoder.lm_head."
# fairseq's padding index is 1, and positions start after it.
FAIRSEQ_PADDING = 1
FAIRSEQ_POSITION_OFFSET = FAIRSEQ_PADDING + 1

# Modules of a layer: from fairseq's name to that of transformers.
LAYER_MODULES = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
# Modules of the masked language model's head, by model type.
HEAD_MODULES = {
    "bert": {
        "dense": "cls.predictions.transform.dense",
        "layer_norm": "cls.predictions.transform.LayerNorm",
    },
    "roberta": {"dense": "lm_head.dense", "layer_norm": "lm_head.layer_norm"},
}
HEAD_OUTPUT = {"bert": "cls.predictions", "roberta": "lm_head"}
# Buffers, and weights that only next-sentence prediction and other heads use. fairseq
# trains a dense layer in each classification head instead of the pooler.
UNUSED = (
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "pooler.dense.weight",
    "pooler.dense.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
)
# Prefixes of the task heads of transformers, which are left out like the pooler.
TASK_HEADS = ("classifier.", "qa_outputs.")
INDEX = ".index.json"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read ``model.safetensors`` or ``pytorch_model.bin`` without running code.

    The path may also be that of the ``.index.json`` that lists their parts.

    Raises:
        InputError: the file is missing, damaged, or has more than tensors.
    """
    if not Path(path).is_file():
        raise InputError(f"missing file: {path}")
    if Path(path).name.endswith(INDEX):
        parts = [read_weights(part) for part in _parts(Path(path))]
        return {name: tensor for part in parts for name, tensor in part.items()}
    try:
        with open(path, "rb"):  # safetensors reports an unreadable file as missing
            pass
        if Path(path).suffix == ".safetensors":
            found = load_file(path)
        else:
            check_archive(Path(path))
            found = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{path} was not loaded: {_reason(error)}") from None
    if not isinstance(found, dict) or not all(
        isinstance(t, Tensor) for t in found.values()
    ):
        raise InputError(f"{path} is not a file of weights: expected tensors by name")
    check_tensors({"model": found}, Path(path))
    return dict(found)


def _parts(index: Path) -> list[Path]:
    found = read_json(index)
    files = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not files:
        raise InputError(f"{index} lacks weight_map, a mapping from tensors to files")
    names = {str(name) for name in files.values()}
    for name in names:
        if name != Path(name).name or not name.endswith((".safetensors", ".bin")):
            raise InputError(
                f"{index}: weight_map names the file {name!r}, allowed: .safetensors "
                "and .bin files in the same folder"
            )
    return [index.parent / name for name in sorted(names)]


def fairseq_weights(
    tensors: Mapping[str, Tensor],
    config: EncoderConfig,
    rows: Sequence[int],
    origin: str | Path,
) -> tuple["OrderedDict[str, Tensor]", bool, list[str]]:
    """Return the state dict of fairseq's ``RobertaModel`` with an encoder's weights.

    fairseq does not have token types, so type 0 is added to every position. Row 1
    (padding) of both embeddings is zero. If the source lacks a masked language model
    head, ``lm_head`` is a placeholder, which fine-tuning a classifier does not use: its
    dense layer is the identity, its layer norm and biases have their initial values.

    Args:
        tensors: named as in ``BertModel`` or ``RobertaModel``, as in their models with
            a head (with the prefix ``bert.`` or ``roberta.``), or with the old names of
            layer norms (``gamma``, ``beta``).
        config: the shape of the encoder.
        rows: for each symbol of the fairseq dictionary, its row in the source.
        origin: the file of the tensors, for messages.

    Returns:
        the float32 state dict, whether the source has a language model head, and the
        names of its task head's weights, which are left out.

    Raises:
        InputError: a tensor is missing or unknown, has another shape or dtype, or is
            not finite; the message names it.
    """
    source = SourceTensors(tensors, config, origin)
    types = source.take(TOKEN_TYPES, (None, config.hidden))
    words = source.take(WORDS, (config.vocabulary_rows, config.hidden))
    table = source.take(POSITIONS, (config.position_rows, config.hidden))
    symbols = words[torch.tensor(rows)]
    symbols[FAIRSEQ_PADDING] = 0
    positions = torch.zeros(
        FAIRSEQ_POSITION_OFFSET + config.max_positions, config.hidden
    )
    positions[FAIRSEQ_POSITION_OFFSET:] = table[config.position_offset :] + types[0]
    state: OrderedDict[str, Tensor] = OrderedDict()
    state[f"{ENCODER}version"] = torch.tensor([3.0])
    state[f"{ENCODER}embed_tokens.weight"] = symbols
    state[f"{ENCODER}embed_positions.weight"] = positions
    for ours, theirs, shape in encoder_modules(config):
        for kind in ("weight", "bias"):
            wanted = shape if kind == "weight" else shape[:1]
            state[f"{ours}.{kind}"] = source.take(f"{theirs}.{kind}", wanted)
    has_head = _language_model_head(state, source, config, rows)
    task_head = sorted(name for name in source.left if name.startswith(TASK_HEADS))
    source.left.difference_update(task_head)
    source.refuse_leftovers()
    return state, has_head, task_head


def encoder_modules(
    config: EncoderConfig,
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield fairseq's name, Hugging Face's name and the weight's shape per module."""
    norm, square = (config.hidden,), (config.hidden, config.hidden)
    shapes = {
        "fc1": (config.inner, config.hidden),
        "fc2": (config.hidden, config.inner),
    }
    yield f"{ENCODER}layernorm_embedding", "embeddings.LayerNorm", norm
    for layer in range(config.layers):
        for ours, theirs in LAYER_MODULES.items():
            shape = norm if "norm" in ours else shapes.get(ours, square)
            yield (
                f"{ENCODER}layers.{layer}.{ours}",
                f"encoder.layer.{layer}.{theirs}",
                shape,
            )


def _language_model_head(
    state: "OrderedDict[str, Tensor]",
    source: "SourceTensors",
    config: EncoderConfig,
    rows: Sequence[int],
) -> bool:
    modules, output = HEAD_MODULES[config.model_type], HEAD_OUTPUT[config.model_type]
    found = f"{modules['dense']}.weight" in source.tensors
    for ours, theirs in modules.items():
        weight = torch.eye if ours == "dense" else torch.ones
        for kind, placeholder in (("weight", weight), ("bias", torch.zeros)):
            tensor = placeholder(config.hidden)
            if found:
                tensor = source.take(f"{theirs}.{kind}", tuple(tensor.shape))
            state[f"{LM_HEAD}{ours}.{kind}"] = tensor
    # The output layer shares its weight with the embedding: one tensor, two names.
    state[f"{LM_HEAD}weight"] = state[f"{ENCODER}embed_tokens.weight"]
    state[f"{LM_HEAD}bias"] = torch.zeros(len(rows))
    if found:
        bias = source.take_bias(output, config.vocabulary_rows)
        state[f"{LM_HEAD}bias"] = bias[torch.tensor(rows)]
        source.refuse_untied(f"{output}.decoder.weight")
    return found


class SourceTensors:
    """Tensors by their names in a bare encoder; keeps track of which were used."""

    def __init__(
        self, tensors: Mapping[str, Tensor], config: EncoderConfig, origin: str | Path
    ) -> None:
        self.origin = origin
        self.tensors = {
            _bare_name(name, config.model_type): t for name, t in tensors.items()
        }
        self.left = set(self.tensors) - set(UNUSED)

    def take(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """Return a copy of a tensor in float32."""
        if name not in self.tensors:
            raise InputError(f"{self.origin} lacks the tensor {name}")
        tensor = self.tensors[name]
        fits = tensor.dim() == len(shape) and all(
            size in (None, found)
            for size, found in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{self.origin}: {name} has the shape {tuple(tensor.shape)}, but the "
                f"configuration requires {shape}"
            )
        if not tensor.is_floating_point():
            raise InputError(
                f"{self.origin}: {name} has {tensor.dtype}, allowed: float types"
            )
        self.left.discard(name)
        tensor = tensor.to(torch.float32, copy=True)
        check_finite({name: tensor}, self.origin)
        return tensor

    def take_bias(self, output: str, size: int) -> Tensor:
        """Return the bias of the language model's output, stored under two names."""
        name, twin = f"{output}.bias", f"{output}.decoder.bias"
        self.left.discard(twin)
        return self.take(name if name in self.tensors else twin, (size,))

    def refuse_untied(self, name: str) -> None:
        """Refuse an output layer that does not share its weight with the embedding."""
        self.left.discard(name)
        if name in self.tensors and not torch.equal(
            self.tensors[name], self.tensors[WORDS]
        ):
            raise InputError(
                f"{self.origin}: {name} differs from {WORDS}; only a language model "
                "head that shares the embedding can be converted (drop the head to "
                "convert the encoder alone)"
            )

    def refuse_leftovers(self) -> None:
        """Refuse tensors that were not used, which would be lost silently."""
        if self.left:
            raise InputError(
                f"{self.origin} has tensors that are not part of such an encoder: "
                f"{first_few(sorted(self.left))}"
            )


def _reason(error: Exception) -> str:
    if wanted := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"its pickle asks for {wanted.group(1)}, which is not a tensor and could "
            "run code; if you trust it, save its tensors as model.safetensors"
        )
    return f"it is damaged or does not contain weights ({short_reason(error)})"


def _bare_name(name: str, model_type: str) -> str:
    name = name.removeprefix(f"{model_type}.")
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    if name.endswith("LayerNorm.beta"):
        return name.removesuffix("beta") + "bias"
    return name
