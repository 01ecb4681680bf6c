"""Measure the representations of a model right after training."""

from pathlib import Path
from typing import Any

import numpy as np

from fairseq_scl.data.binarise import read_labels
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.experiments.geometry import measures
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.inference.predict import features
from fairseq_scl.input_format import Manifest
from fairseq_scl.typed import read_as


def measures_of_model(model: Any, task: Any, data: Path) -> dict[str, float]:
    """Measure the features that the head reads of the test set of a task.

    Args:
        model: RoBERTa with a classification head; left in evaluation mode.
        task: the task that it was trained with; it has loaded the test set.
        data: the data folder.

    Returns:
        the measures of :func:`~fairseq_scl.experiments.geometry.measures`.

    Raises:
        InputError: as in :func:`~fairseq_scl.experiments.geometry.measures`.
    """
    names, made = read_labels(data), read_as(data / MANIFEST, Manifest)
    classifier = LoadedModel(
        model=model.eval(),
        labels=names,
        tokenizer=load_tokenizer(data),
        dictionary=task.source_dictionary,
        pair=made.pair,
        separator_token=task.cfg.separator_token,
        max_positions=task.max_positions(),
        exits={},
    )
    dataset = task.datasets["test"]
    examples = [dataset[number] for number in range(len(dataset))]
    tokens = [example["net_input.src_tokens"] for example in examples]
    labels = [names[int(example["target"])] for example in examples]
    return measures(features(classifier, tokens).numpy().astype(np.float64), labels)
