"""Checks of the criterion's settings."""

from typing import Any

from fairseq_scl.errors import InputError
from fairseq_scl.models.features import FEATURES


def check_gather(cfg: Any, task: Any) -> None:
    """Refuse ``--gather-features`` where the task does not mark what to ignore.

    Raises:
        InputError: names the task.
    """
    if getattr(cfg, "gather_features", False) and not getattr(
        task, "marks_ignored_batches", False
    ):
        raise InputError(
            "--gather-features needs --task sentence_prediction_scl, which tells "
            f"real batches from filled-in ones, not {type(task).__name__}"
        )


def check_settings(cfg: Any) -> None:
    """Refuse values of the contrastive term that cannot be.

    Raises:
        InputError: names flag, value and what is allowed.
    """
    if not 0 <= cfg.scl_lambda <= 1:
        raise InputError(f"--scl-lambda is {cfg.scl_lambda}: it must be from 0 to 1")
    if not 0 < cfg.scl_temperature < float("inf"):
        raise InputError(
            f"--scl-temperature is {cfg.scl_temperature}: it must be above 0"
        )
    for flag, value, allowed in (
        ("--scl-features", cfg.scl_features, FEATURES),
        ("--scl-reduction", cfg.scl_reduction, ("mean", "paper")),
    ):
        if str(value) not in allowed:
            raise InputError(
                f"{flag} is {value!r}: it must be one of {', '.join(allowed)}"
            )
    if cfg.regression_target:
        raise InputError(
            "--regression-target does not go with sentence_prediction_scl: the "
            "contrastive term needs classes, use --criterion sentence_prediction"
        )


def check_views(cfg: Any, task: Any, criterion: type, allowed: type) -> None:
    """Refuse ``--scl-views`` where nothing would give views, or take them.

    Args:
        cfg: the criterion's settings.
        task: the task.
        criterion: the criterion's class.
        allowed: the class that takes views, without its subclasses.

    Raises:
        InputError: names the option that does not go with it.
    """
    if not getattr(cfg, "scl_views", False):
        return
    if criterion is not allowed:
        raise InputError(
            "--scl-views goes with --criterion sentence_prediction_scl alone, not with "
            f"{criterion.__name__}"
        )
    if not hasattr(task, "takes_views"):
        raise InputError(
            "--scl-views needs --task sentence_prediction_scl, which loads the views, "
            f"not {type(task).__name__}"
        )
    if getattr(cfg, "gather_features", False):
        raise InputError(
            "--gather-features does not go with --scl-views: each worker contrasts the "
            "views of its own examples"
        )
    if task.cfg.chunk:
        raise InputError(
            f"--chunk {task.cfg.chunk} does not go with --scl-views, whose batches are "
            "computed in one pass"
        )
