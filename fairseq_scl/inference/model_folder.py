"""A model folder: written from a training checkpoint, loaded to label sentences.

It holds ``model.pt`` (weights and settings, no optimizer state, only plain values and
tensors), ``input0/dict.txt``, ``label/dict.txt``, ``label_map.json``, the tokeniser's
files and ``classifier.json``. ``RobertaModel.from_pretrained`` of a plain fairseq loads
it as well.
"""

import argparse
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.tasks.sentence_prediction import SentencePredictionConfig
from torch import Tensor, nn

from fairseq_scl.compat.checkpoints import LAYER_COPY, load_checkpoint, load_model
from fairseq_scl.convert.checkpoint import plain_checkpoint
from fairseq_scl.convert.encoder_config import STOCK_EPS
from fairseq_scl.convert.huggingface import fold_layer_norm_eps
from fairseq_scl.data.binarise import LABEL_MAP, fairseq_flags, read_labels
from fairseq_scl.data.files import read_json, write_json, write_then_rename
from fairseq_scl.data.folders import (
    ENCODER,
    MANIFEST,
    MODEL,
    folder_then_rename,
    verify,
)
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.models.exits import SHALLOW_HEAD, exit_heads

SETTINGS = "classifier.json"
HEAD = "sentence_classification_head"
LAYERS = "encoder.sentence_encoder.layers."
# fairseq saves every flag of the training command with the model; these make the model.
MODEL_SETTINGS = (
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"),
    *("encoder_attention_heads", "max_positions", "max_source_positions"),
    *("activation_fn", "pooler_activation_fn", "untie_weights_roberta"),
    *("dropout", "attention_dropout", "activation_dropout", "pooler_dropout"),
    *("encoder_layerdrop", "encoder_normalize_before", "encoder_learned_pos"),
    *("layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings"),
    *(
        "spectral_norm_classification_head",
        "quant_noise_pq",
        "quant_noise_pq_block_size",
    ),
    *("quant_noise_scalar", "adaptive_input"),
)


@dataclass
class Classifier:
    """A loaded model folder.

    Attributes:
        model: the encoder with its classification head, in evaluation mode.
        labels: label of each class id.
        tokenizer: text to dictionary symbols.
        dictionary: symbols to ids.
        pair: whether an example is two sentences.
        pair_separator: whether an additional ``</s>`` stands before the second.
        max_positions: longest input in tokens, special tokens included.
        exits: name of the classification head after each layer that has one, layers
            counted from 1; the last is the top, of most models the only one.
        exit_pooling: what the heads below the top read, ``cls`` or ``mean``.
    """

    model: nn.Module
    labels: list[str]
    tokenizer: Tokenizer
    dictionary: Dictionary
    pair: bool
    pair_separator: bool
    max_positions: int
    exits: dict[int, str]
    exit_pooling: str = "cls"


def export_classifier(
    checkpoint: str | Path, data: str | Path, target: str | Path
) -> None:
    """Write a model folder from a training checkpoint and its data folder.

    A ``roberta_bert`` encoder, whose layer norms use another epsilon than fairseq's
    RoBERTa, is rewritten to the stock model that computes the same. The heads of a
    multi-exit encoder are kept: to fairseq alone it is an ordinary classifier, that of
    the deepest exit, with other heads beside it.

    Args:
        checkpoint: a checkpoint of ``fairseq-train`` with a classification head.
        data: the data folder that it was trained on.
        target: the model folder to write.

    Raises:
        InputError: the checkpoint has no classification head or other classes than the
            data, a file is missing, or the disk is full.
    """
    verify(data)
    state = load_checkpoint(checkpoint)
    labels = read_labels(data)
    weights = OrderedDict(
        (name, tensor.float())
        for name, tensor in _model(state, checkpoint).items()
        if not LAYER_COPY.search(name)
    )
    classes = len(weights[f"classification_heads.{HEAD}.out_proj.weight"])
    if classes != len(labels):
        raise InputError(
            f"{checkpoint} has {classes} classes, {Path(data, LABEL_MAP)} has "
            f"{len(labels)}: give the data folder that it was trained on"
        )
    plain = _stock_checkpoint(state, weights)
    with folder_then_rename(target, MODEL, [checkpoint, data]) as folder:
        with write_then_rename(folder / "model.pt", "wb") as file:
            torch.save(plain, file)
        for part in ("input0", "label"):
            (folder / part).mkdir()
            shutil.copyfile(Path(data, part, "dict.txt"), folder / part / "dict.txt")
        load_tokenizer(data).save(folder)
        write_json(folder / LABEL_MAP, {"labels": labels})
        manifest = read_json(Path(data, MANIFEST))
        settings = {
            "schema": 1,
            "pair": manifest["pair"],
            "pair_separator": "--separator-token" in fairseq_flags(data),
            "max_positions": int(plain["cfg"]["task"]["max_positions"]),
        }
        if len(_exits(weights)) > 1:
            model = plain_values(state["cfg"]["model"])
            settings["exit_pooling"] = model.get("exit_pooling", "cls")
        write_json(folder / SETTINGS, settings)


def export_encoder(
    checkpoint: str | Path, data: str | Path, target: str | Path
) -> None:
    """Write an encoder folder from a training checkpoint: no classification head.

    Args:
        checkpoint: a checkpoint of ``fairseq-train``.
        data: the data folder that it was trained on.
        target: the encoder folder to write, as ``fairseq-scl convert`` does.

    Raises:
        InputError: as :func:`export_classifier`.
    """
    verify(data)
    state = load_checkpoint(checkpoint)
    weights = OrderedDict(
        (name, tensor.float())
        for name, tensor in _model(state, checkpoint).items()
        if not LAYER_COPY.search(name) and not name.startswith("classification_heads.")
    )
    with folder_then_rename(target, ENCODER, [checkpoint, data]) as folder:
        shutil.copyfile(Path(data, "input0", "dict.txt"), folder / "dict.txt")
        load_tokenizer(data).save(folder)
        with write_then_rename(folder / "model.pt", "wb") as file:
            torch.save(_stock_checkpoint(state, weights), file)


def _stock_checkpoint(
    state: Mapping[str, Any], weights: "OrderedDict[str, Tensor]"
) -> dict[str, Any]:
    """Return what fairseq alone can load: stock model and task, plain values."""
    model = plain_values(state["cfg"]["model"])
    eps = float(model.get("layer_norm_eps", STOCK_EPS))
    if eps != STOCK_EPS:
        weights = _fold(weights, eps)
    exits = _exits(weights)
    model = {name: model[name] for name in MODEL_SETTINGS if name in model}
    model |= {"_name": "roberta", "arch": "roberta"}
    if len(exits) > 1:
        model["load_checkpoint_heads"] = True
    task = plain_values(state["cfg"]["task"])
    stock = {one.name for one in fields(SentencePredictionConfig)}
    task = {name: value for name, value in task.items() if name in stock}
    task |= {"_name": "sentence_prediction", "data": "."}
    return plain_checkpoint(model, task, weights)


def _fold(
    weights: "OrderedDict[str, Tensor]", eps: float
) -> "OrderedDict[str, Tensor]":
    """Go to the stock epsilon; heads below the top read states that have grown."""
    folded = fold_layer_norm_eps(weights, eps)
    for name, tensor in folded.items():
        part, _, rest = name.removeprefix("classification_heads.").partition(".")
        if SHALLOW_HEAD.search(part) and rest == "dense.weight":
            folded[name] = (tensor.double() * (eps / STOCK_EPS) ** 0.5).float()
    return folded


def _exits(weights: Iterable[str]) -> dict[int, str]:
    """Find the exits of a model by the names of its weights."""
    heads, layers = set(), set()
    for name in weights:
        if name.startswith("classification_heads."):
            heads.add(name.split(".")[1])
        elif name.startswith(LAYERS):
            layers.add(int(name.removeprefix(LAYERS).split(".")[0]))
    return exit_heads(heads, HEAD, len(layers))


def load_classifier(folder: str | Path, device: str = "cpu") -> Classifier:
    """Load a model folder.

    Args:
        folder: written by :func:`export_classifier`.
        device: a PyTorch device, for example ``cpu`` or ``cuda``.

    Raises:
        InputError: a file is missing, or is not what the folder needs; there is no such
            device.
    """
    check_device(device)
    folder = Path(folder)
    for name in (SETTINGS, LABEL_MAP, "model.pt", "input0/dict.txt", "label/dict.txt"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is no model folder: {name} is missing; 'fairseq-scl export' "
                "makes one from a checkpoint"
            )
    settings = read_json(folder / SETTINGS)
    model, task = load_model(folder / "model.pt", {"data": str(folder)})
    return Classifier(
        model=model.to(device).eval(),
        labels=read_labels(folder),
        tokenizer=load_tokenizer(folder),
        dictionary=task.source_dictionary,
        pair=settings["pair"],
        pair_separator=settings["pair_separator"],
        max_positions=settings["max_positions"],
        exits=_exits(model.state_dict()),
        exit_pooling=settings.get("exit_pooling", "cls"),
    )


def plain_values(settings: Any) -> dict[str, Any]:
    """Return settings (a namespace or mapping) without anything that is not plain."""
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    plain = (str, int, float, bool, type(None))
    return {
        name: value
        for name, value in dict(settings).items()
        if isinstance(value, plain) and name not in ("data", "user_dir", "save_dir")
    }


def _model(state: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Tensor]:
    weights = state.get("model", {})
    if f"classification_heads.{HEAD}.out_proj.weight" not in weights:
        raise InputError(
            f"{checkpoint} has no classification head {HEAD!r}: give a checkpoint that "
            "was fine-tuned with a sentence prediction criterion"
        )
    return dict(weights)
