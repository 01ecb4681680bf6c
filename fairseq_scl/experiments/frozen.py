"""Frozen encoders and models on a data folder: feature geometry and linear probes.

Any objective can be compared, on the same examples before and after fine-tuning.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairseq_scl.data.binarize import read_labels, read_split_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.geometry import TOP, measures
from fairseq_scl.experiments.probe import Probe, linear_probe
from fairseq_scl.inference.data_split import check_vocabulary, split_features
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.model_folder import SETTINGS, LoadedModel, load_classifier
from fairseq_scl.inference.predict import features
from fairseq_scl.inference.regression_head import fit_head
from fairseq_scl.input_format import HEAD, Manifest, tokens_wanted
from fairseq_scl.typed import read_as

ENCODER, MODEL = "encoder", "model"
Known = dict[tuple[str, ...], NDArray[np.float32]]


def kind_of(folder: Path) -> str:
    """Return whether a folder is a model folder or else an encoder folder."""
    return MODEL if (folder / SETTINGS).is_file() else ENCODER


def load_frozen(folder: Path, data: Path, device: str = "cpu") -> LoadedModel:
    """Load an encoder or model folder to compute features of a data folder.

    An encoder gets an unused classification head. A model trained on single sentences
    reads pairs as the data folder joins them.

    Raises:
        InputError: a folder is of the wrong kind, or the vocabularies differ.
    """
    if not (data / MANIFEST).is_file():
        raise InputError(
            f"there is no data folder {data}: create it with 'fairseq-scl prepare'"
        )
    check_vocabulary(data, folder)
    manifest = read_as(data / MANIFEST, Manifest)
    separator = tokens_wanted(manifest)["separator_token"]
    load = load_classifier if kind_of(folder) == MODEL else load_encoder
    return replace(load(folder, device), pair=manifest.pair, separator_token=separator)


def measured(
    folder: Path,
    data: Path,
    split: str,
    device: str = "cpu",
    top: int = TOP,
    pooling: str | None = None,
) -> dict[str, float]:
    """Measure the features that an encoder or model folder computes for a split.

    ``pooling`` is as for :func:`probed`.

    Raises:
        InputError: see :func:`load_frozen` and
            :func:`~fairseq_scl.experiments.geometry.measures`.
    """
    labels = read_split_labels(data, split)
    model = load_frozen(folder, data, device)
    found = split_features(model, data, split, folder, pooling)
    try:
        return measures(found.astype(np.float64), labels, top)
    except InputError as error:
        raise InputError(f"{folder} on {split} of {data}: {error}") from error


def measures_of_model(model: Any, task: Any, data: Path) -> dict[str, float]:
    """Measure the features of the test set right after training.

    The model is left in evaluation mode. Its task has loaded the test set.

    Raises:
        InputError: see :func:`~fairseq_scl.experiments.geometry.measures`.
    """
    found, ids = _features_of_model(model, task, data, "test")
    names = read_labels(data)
    return measures(found.astype(np.float64), [names[number] for number in ids])


def fit_head_of_model(model: Any, task: Any, run: Run) -> None:
    """Replace the head of a run's model, see :func:`fit_head`.

    The model is left in evaluation mode. Its task has loaded the training set.

    Raises:
        InputError: the features are not finite, or a label has no training example.
    """
    found, ids = _features_of_model(model, task, run.data, "train")
    names = read_labels(run.data)
    if missing := [name for n, name in enumerate(names) if n not in ids]:
        raise InputError(
            f"{run.data}: the label {missing[0]!r} has no training example, but a "
            "logistic regression as the head needs one of each"
        )
    if not np.isfinite(found).all():
        raise InputError(f"the features of {run.data} are not finite")
    fit_head(model.classification_heads[HEAD], found, ids, _class_weights(run))


def _features_of_model(
    model: Any, task: Any, data: Path, split: str
) -> tuple[NDArray[np.float32], list[int]]:
    """Compute the features that the head reads of a loaded split, and its class ids."""
    classifier = LoadedModel(
        model=model.eval(),
        labels=read_labels(data),
        tokenizer=load_tokenizer(data),
        dictionary=task.source_dictionary,
        pair=read_as(data / MANIFEST, Manifest).pair,
        separator_token=task.cfg.separator_token,
        max_positions=task.max_positions(),
        exits={},
    )
    dataset = task.datasets[split]
    examples = [dataset[number] for number in range(len(dataset))]
    if isinstance(examples[0], list):  # an example and its views
        examples = [example for example, *_ in examples]
    tokens = [example["net_input.src_tokens"] for example in examples]
    ids = [int(example["target"]) for example in examples]
    return features(classifier, tokens).numpy(), ids


def probed(
    folder: Path,
    data: Path,
    device: str = "cpu",
    known: Known | None = None,
    *,
    pooling: str | None = None,
    max_positions: int | None = None,
    class_weights: str | None = None,
) -> Probe:
    """Fit a linear probe to the features that an encoder or model folder computes.

    Args:
        folder: an encoder or model folder.
        data: a data folder.
        device: see :func:`load_frozen`.
        known: features by the content of their split, so that samples that share
            validation and test examples compute them once; of one folder and pooling.
        pooling: features to read, ``cls`` or ``mean``; by default those of the head.
        max_positions: cut longer inputs; by default at the model's maximum.
        class_weights: ``balanced`` gives all classes the same weight.

    Raises:
        InputError: see :func:`load_frozen`, or the data folder lacks a split.
    """
    classifier = load_frozen(folder, data, device)
    longest = classifier.max_positions
    classifier.max_positions = min(max_positions or longest, longest)
    known = {} if known is None else known
    matrices, labels = {}, {}
    for split in ("train", "valid", "test"):
        texts = tuple(sha256(p) for p in sorted(data.glob(f"input?/{split}.bin")))
        if texts not in known:
            known[texts] = split_features(classifier, data, split, folder, pooling)
        matrices[split] = known[texts].astype(np.float64)
        labels[split] = read_split_labels(data, split)
    return linear_probe(matrices, labels, class_weights)


def probed_before(run: Run, known: Known | None = None) -> Probe:
    """Fit a linear probe to the encoder of a run before training, see :func:`probed`.

    It reads texts and weights classes as the run does.
    """
    return probed(
        run.encoder,
        run.data,
        run.device,
        known,
        pooling=run.head_pooling,
        max_positions=run.max_positions,
        class_weights=_class_weights(run),
    )


def _class_weights(run: Run) -> str | None:
    """Return the class weights of a run as scikit-learn names them."""
    return "balanced" if run.loss.get("class_weights") == "balanced" else None
