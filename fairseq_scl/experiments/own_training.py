"""Runs on a user's own examples, with recommended settings for their number."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq_scl.convert.pooling import Pooling
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.loss_grid import (
    REGRESSION_HEAD,
    Grid,
    default_point,
    loss_of,
    own_settings,
)
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results_folder import finished_runs
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.experiments.tables import load_table
from fairseq_scl.inference.model_folder import is_exported
from fairseq_scl.typed import AFTER, BEFORE

# The table and the loss that define each objective; lists have a single point there.
OBJECTIVES = {
    "ce": ("quickstart", "CE"),
    "scl": ("quickstart", "CE+SCL"),
    "capcort": ("compare", "CAPCORT-MLP"),
    "acl": ("compare", "ACL-Embed"),
}
LEAST_UPDATES = 60
VALIDATIONS = 8
# Peak learning rate by width of the encoder: MiniLM, base and large sizes.
LEARNING_RATES = ((512, 1e-4), (800, 2e-5), (math.inf, 1e-5))
# The recipe for a few texts: SCL alone, at most at this learning rate by default, and
# then a logistic regression as the head. Chosen in docs/results.md.
FEW_SHOT_RECIPE = "few-shot"
FEW_SHOT_RATE = 2.5e-5
# With as many classes, a few updates do not train a head that starts at random.
MANY_CLASSES = 10


def objective_point(
    objective: str, pooling: Pooling, classes: int, class_weights: str | None = None
) -> Grid:
    """Return one of :data:`OBJECTIVES` or the recipe as a grid of one point.

    Its terms read the same features as the classification head, those of ``pooling``.
    With many ``classes``, the objectives start from a fitted head.
    """
    table, loss = OBJECTIVES["scl" if objective == FEW_SHOT_RECIPE else objective]
    point = default_point(load_table(table).losses[loss]) | {"scl_features": (pooling,)}
    if class_weights is not None:
        point["class_weights"] = (class_weights,)
    if objective == FEW_SHOT_RECIPE:
        point |= {"scl_lambda": (1.0,), REGRESSION_HEAD: (AFTER,)}
    elif classes >= MANY_CLASSES:
        point[REGRESSION_HEAD] = (BEFORE,)
    return point | ({"capcort_features": (pooling,)} if objective == "capcort" else {})


def recommended_updates(examples: int) -> int:
    """Return the updates for a number of training examples: 12·√N, at least 60.

    This is the quick start's budget at N = 100, and close to those that
    ``docs/results.md`` uses for Table 4 at N = 20 and 1,000.
    """
    return max(LEAST_UPDATES, round(12 * math.sqrt(examples)))


def recommended_learning_rate(encoder: Path, recipe: str | None = None) -> float:
    """Return the peak learning rate for an encoder, by its width.

    Raises:
        InputError: it is not an encoder folder.
    """
    flags = architecture_flags(encoder, 512)
    name = "--encoder-embed-dim"
    width = int(flags[flags.index(name) + 1]) if name in flags else math.inf
    found = next(rate for most, rate in LEARNING_RATES if width <= most)
    return min(found, FEW_SHOT_RATE) if recipe == FEW_SHOT_RECIPE else found


def own_run(
    data: Path,
    encoder: Path,
    objective: str,
    pooling: Pooling,
    classes: int,
    class_weights: str | None = None,
    **settings: Any,
) -> Run:
    """Return the run of one of :data:`OBJECTIVES` or of the recipe.

    ``settings`` are further fields of :class:`Run`.
    """
    seed = settings["seed"]
    grid = objective_point(objective, pooling, classes, class_weights)
    point = {key: values[0] for key, values in grid.items()}
    run = Run(
        name=f"{objective}-seed{seed}",
        data=data,
        encoder=encoder,
        loss=loss_of(point),
        head_pooling=pooling,
        batching="reshuffled",
        keep_checkpoint=True,
        cell={"loss": objective, "seed": seed},
        **settings,
    )
    return replace(run, **own_settings(point))


def notes_of(record: Record) -> dict[str, Any]:
    """Return what a model folder remembers of the run that trained it."""
    names = ("seed", "updates", "learning_rate", "batch_size")
    noted = {name: record.settings.get(name) for name in names}
    noted["data"] = record.origin["sha256"].get("data")
    head = record.settings.get("regression_head")
    if head == AFTER and record.settings.get("scl_lambda") == 1:
        noted["recipe"] = FEW_SHOT_RECIPE
    elif head is not None:
        noted["regression_head"] = head
    best = best_validation(record.valid)
    return {**noted, "valid": {"correct": best.correct, "total": best.total}}


def check_own_model(folder: Path, work: Path) -> None:
    """Check that a model folder, if there is one, was trained in the folder ``work``.

    Raises:
        InputError: no finished run in ``work`` has its notes.
    """
    if (folder / MANIFEST).is_file() and not any(
        is_exported(folder, notes_of(record), complete=False)
        for record in finished_runs(work).values()
    ):
        raise InputError(
            f"{folder} is not replaced, because it was not trained in {work}: delete "
            "it yourself or choose another name"
        )


def check_only_run(run: Run, folder: Path) -> None:
    """Check that no other run of :func:`own_run` is finished in a folder.

    Raises:
        InputError: there is one; names its objective or seed.
    """
    for place, record in finished_runs(folder).items():
        if place.name == run.name:
            continue
        there = record.settings.get("cell", {})
        keys = {"objective or recipe": "loss", "seed": "seed"}
        changed = [n for n, key in keys.items() if there.get(key) != run.cell[key]]
        raise InputError(
            f"{place} holds a run with other settings ({', '.join(changed)}): choose "
            "another output folder or delete it"
        )
