"""What a model folder remembers of its training, and the model card made of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

import fairseq_scl
from fairseq_scl.data.files import sha256
from fairseq_scl.inference.stock_checkpoint import plain_values
from fairseq_scl.input_format import MANIFEST
from fairseq_scl.typed import (
    Checksum,
    Count,
    Finite,
    Positive,
    RegressionHead,
    as_type,
)

CARD = """\
---
library_name: {library}
pipeline_tag: text-classification
tags:
- text-classification{tag}
---

# {title}

A classifier of {inputs} with {count} labels, {made} for `{library}`.

```python
{code}
```

{limit}

## Labels

| id | label |
|---|---|
{labels}

## Training

{training}

## Evaluation

{evaluation}

## Checksums

The model folder that this one was made from; `manifest.json` lists the files here.

| file | SHA-256 |
|---|---|
{checksums}

Signature: `{signature}`
"""
CONTRASTIVE = " (supervised contrastive learning, Gunel et al., 2021)"
PIPELINE = """\
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder")
classify({example}, truncation=True)"""
# There is no pipeline for a head that reads the mean over the tokens.
SENTENCE_TRANSFORMER = """\
from sentence_transformers import SentenceTransformer

labels = {labels}
model = SentenceTransformer("path/to/this/folder")
logits = model.encode([{example}])
print([labels[number] for number in logits.argmax(axis=1)])"""


class Correct(msgspec.Struct, frozen=True):
    """Correct answers of a model on a split, of how many."""

    correct: Count
    total: Positive


class Training(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model folder remembers of its training; ``None`` where it is not known.

    Attributes:
        criterion: name of the criterion.
        scl_lambda: λ.
        scl_temperature: τ.
        updates: number of updates of the training; in folders of earlier versions,
            which lack ``checkpoint_update``, that before the checkpoint.
        checkpoint_update: number of updates before the checkpoint.
        seed: seed of the training.
        learning_rate: peak learning rate.
        batch_size: in examples.
        valid: result on the validation set.
        test: result on the test set.
        recipe: ``few-shot`` if the head is a logistic regression, fitted after the
            encoder was fine-tuned.
        regression_head: without the recipe, whether the head was fitted so ``before``
            or ``after`` fine-tuning.
        data: SHA-256 of the manifest of the data folder.
    """

    criterion: str | None = None
    scl_lambda: Finite | None = None
    scl_temperature: Finite | None = None
    updates: Count | None = None
    checkpoint_update: Count | None = None
    seed: Count | None = None
    learning_rate: Finite | None = None
    batch_size: Count | None = None
    valid: Correct | None = None
    test: Correct | None = None
    recipe: Literal["few-shot"] | None = None
    regression_head: RegressionHead | None = None
    data: Checksum | None = None


def training_notes(
    state: Mapping[str, Any], data: Path, noted: Mapping[str, Any]
) -> Training:
    """Return what a model folder remembers of a checkpoint and its data folder.

    ``noted`` has more attributes of :class:`Training`, from the record of a run.
    """
    criterion = plain_values(state["cfg"].get("criterion") or {})
    history = state.get("optimizer_history") or [{}]
    known = (data / MANIFEST).is_file()
    found = {
        "criterion": criterion.get("_name"),
        "scl_lambda": criterion.get("scl_lambda"),
        "scl_temperature": criterion.get("scl_temperature"),
        "checkpoint_update": history[-1].get("num_updates"),
        "data": sha256(data / MANIFEST) if known else None,
    }
    return as_type({**found, **noted}, Training, "the settings of the checkpoint")


def model_card(
    title: str,
    labels: Sequence[str],
    pair: bool,
    reads_mean: bool,
    max_positions: int,
    training: Training,
    checksums: Mapping[str, str],
) -> str:
    """Return the text of the ``README.md`` beside an exported model.

    Args:
        title: a name for the model.
        labels: label of each class id.
        pair: whether an example is two sentences.
        reads_mean: whether the folder is one of sentence-transformers.
        max_positions: longest input in tokens.
        training: what is known about its training.
        checksums: SHA-256 of the files of the model folder.
    """
    if reads_mean:
        example = '("a sentence", "another one")' if pair else '"a sentence"'
        code = SENTENCE_TRANSFORMER.format(labels=list(labels), example=example)
    else:
        example = '{"text": "a sentence", "text_pair": "another one"}'
        code = PIPELINE.format(example=example if pair else '"a sentence"')
    contrastive = (training.scl_lambda or 0) > 0
    made = "exported with fairseq-scl"
    if training.criterion is not None:  # None also of a model trained elsewhere
        method = CONTRASTIVE if contrastive else ""
        made = f"fine-tuned with fairseq-scl{method} and exported"
    settings = {
        name: value
        for name, value in (
            ("criterion", training.criterion),
            ("recipe", training.recipe),
            ("regression head", training.regression_head),
            ("lambda", training.scl_lambda),
            ("tau", training.scl_temperature),
            ("updates", training.updates),
            ("checkpoint", training.checkpoint_update),
            ("seed", training.seed),
            ("lr", training.learning_rate),
            ("batch", training.batch_size),
        )
        if value is not None
    }
    results = [
        f"- accuracy on the {name} set: {100 * found.correct / found.total:.1f}% "
        f"({found.correct} of {found.total})"
        for name, found in (("validation", training.valid), ("test", training.test))
        if found is not None
    ]
    listed = dict(checksums)
    if training.data is not None:
        listed = {f"{MANIFEST} of the training data": training.data, **listed}
    signature = {
        **settings,
        "data": (training.data or "unknown")[:8],
        "model": checksums["model.pt"][:8],
        "fairseq-scl": fairseq_scl.__version__,
    }
    rows = [f"- {name}: {value}" for name, value in settings.items()]
    return CARD.format(
        tag="\n- supervised-contrastive-learning" if contrastive else "",
        made=made,
        library="sentence-transformers" if reads_mean else "transformers",
        limit=f"Inputs longer than {max_positions} tokens "
        + ("are truncated." if reads_mean else "need `truncation=True`."),
        code=code,
        title=title,
        inputs="sentence pairs" if pair else "sentences",
        count=len(labels),
        labels="\n".join(f"| {n} | {_cell(label)} |" for n, label in enumerate(labels)),
        training="\n".join(rows) or "Not recorded.",
        evaluation="\n".join(results) or "Not recorded.",
        checksums="\n".join(f"| {_cell(n)} | `{s}` |" for n, s in listed.items()),
        signature="|".join(f"{name}:{value}" for name, value in signature.items()),
    )


def _cell(text: str) -> str:
    """Return a text as the cell of a Markdown table shows it literally."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return plain.replace("`", "\\`").replace("*", "\\*").replace("_", "\\_")
