"""Declare and check the settings of criteria."""

import logging
from dataclasses import field
from pathlib import Path
from typing import Any

from fairseq_scl.criterions.class_weights import CLASS_WEIGHTS
from fairseq_scl.criterions.protocol import require_task
from fairseq_scl.errors import InputError, first_few
from fairseq_scl.input_format import label_names
from fairseq_scl.models.features import FEATURES
from fairseq_scl.typed import check_ranges

logger = logging.getLogger(__name__)


def option(default: Any, text: str) -> Any:
    """Return a field of a settings dataclass with its default and help."""
    return field(default=default, metadata={"help": text})


def check_settings(cfg: Any, task: Any) -> None:
    """Check the options of the contrastive term; warn if the head is not trained.

    Raises:
        InputError: an option is out of its range; names flag, value and what is
            allowed.
    """
    check_ranges(cfg)
    check_choice(cfg, "scl_features", FEATURES)
    check_choice(cfg, "scl_reduction", ("mean", "paper"))
    check_choice(cfg, "class_weights", CLASS_WEIGHTS)
    if cfg.class_weights != "none" and cfg.scl_views:
        raise InputError("--class-weights cannot be combined with --scl-views")
    if cfg.regression_target:
        raise InputError(
            "--regression-target cannot be combined with sentence_prediction_scl: the "
            "contrastive term needs classes; use --criterion sentence_prediction"
        )
    if cfg.gather_features:
        require_task("--gather-features", task)
    pooled = cfg.scl_features == "pooled"
    # With pooled features, ACL-Embed trains the projection as its label embeddings.
    if cfg.scl_lambda == 1 and not (pooled and getattr(cfg, "acl_embed", False)):
        part = "the last projection of the" if pooled else "the"
        logger.warning(
            f"--scl-lambda 1 with --scl-features {cfg.scl_features} gives {part} "
            "classification head no gradient: only weight decay changes its weights"
        )
    names = label_names(task.label_dictionary.symbols)
    if len(names) != task.cfg.num_classes:
        raise InputError(
            f"--num-classes is {task.cfg.num_classes}, but "
            f"{Path(task.cfg.data, 'label', 'dict.txt')} has {len(names)} labels: "
            f"{first_few(names)}"
        )


def check_choice(cfg: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Refuse a setting that is not one of the allowed words.

    fairseq's ``ChoiceEnum`` prints a page of usage instead, and a traceback under
    Hydra.

    Raises:
        InputError: names flag, value and what is allowed.
    """
    value = str(getattr(cfg, name))
    if value not in allowed:
        raise InputError(
            f"--{name.replace('_', '-')} is {value!r}: it must be one of "
            f"{', '.join(allowed)}"
        )
