"""Write a classifier whose head reads the mean as a sentence-transformers folder.

``transformers`` does not have a classifier that reads the mean over the tokens. In
sentence-transformers it consists of four modules: the encoder, the mean, and the two
layers of the head. ``SentenceTransformer(folder).encode(texts)`` gives the logits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fairseq_scl.convert.classifier_head import HEAD_MODULES
from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.convert.pooling import MODES, MODULES, SETTINGS
from fairseq_scl.data.files import write_json, write_then_rename

MODELS = {"bert": "BertModel", "roberta": "RobertaModel"}
ACTIVATIONS = {
    "dense": "torch.nn.modules.activation.Tanh",
    "out_proj": "torch.nn.modules.linear.Identity",
}
WEIGHTS = "model.safetensors"


def write_modules(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shape: EncoderConfig,
    longest: int,
) -> None:
    """Write the folder except for the tokenizer and the model card.

    ``config`` and ``tensors`` are those of
    :mod:`~fairseq_scl.convert.to_huggingface`; ``longest`` is the longest input in
    tokens, including special tokens.
    """
    kind = shape.model_type
    head = {
        ours: [_of_head(tensors, theirs, part) for part in ("weight", "bias")]
        for ours, theirs in HEAD_MODULES[kind].items()
    }
    encoder = {
        name.removeprefix(f"{kind}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{kind}.")
    }
    # Not used here, but transformers warns if the encoder lacks a pooler.
    for part, tensor in zip(("weight", "bias"), head["dense"], strict=True):
        encoder[f"pooler.dense.{part}"] = tensor
    write_json(folder / SETTINGS, {**config, "architectures": [MODELS[kind]]})
    write_weights(folder, encoder)
    settings = {"max_seq_length": longest, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", settings)
    modes = {name: pooling == "mean" for name, pooling in MODES.items()}
    pooling = {"word_embedding_dimension": shape.hidden, **modes}
    write_json(folder / "1_Pooling" / SETTINGS, pooling)
    paths = ["", "1_Pooling"]
    for number, (name, (weight, bias)) in enumerate(head.items(), start=2):
        paths.append(f"{number}_Dense")
        layer = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": True,
            "activation_function": ACTIVATIONS[name],
        }
        write_json(folder / paths[-1] / SETTINGS, layer)
        write_weights(
            folder / paths[-1], {"linear.weight": weight, "linear.bias": bias}
        )
    types = ("Transformer", "Pooling", "Dense", "Dense")
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{name}",
        }
        for number, (path, name) in enumerate(zip(paths, types, strict=True))
    ]
    write_json(folder / MODULES, modules)


def _of_head(tensors: Mapping[str, Tensor], module: str, part: str) -> Tensor:
    """Return a tensor of the head; BERT's pooler is part of the encoder."""
    names = [name for name in tensors if name.endswith(f"{module}.{part}")]
    return tensors[names[0]].clone()  # safetensors refuses shared tensors


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``model.safetensors`` as ``transformers`` expects it."""
    with write_then_rename(folder / WEIGHTS, "wb") as file:
        file.write(save(dict(tensors), metadata={"format": "pt"}))
