"""Fault: fairseq's default ``--ddp-backend`` does not train classifiers.

RoBERTa's language-model head takes no part in classification, and PyTorch's
DistributedDataParallel stops at the second update unless given
``--find-unused-parameters``. On CPUs it does not even start, since fairseq passes it
the number of a GPU. Present in every version of fairseq.
"""

import logging
from typing import Any

from torch import nn

from fairseq_scl.compat.wrapping import wrap

logger = logging.getLogger(__name__)


def apply() -> None:
    """Look for unused parameters of classifiers, and name no GPU on CPUs."""
    from fairseq.models import distributed_fairseq_model

    wrap(distributed_fairseq_model, "DistributedDataParallel", _distribute)


def _distribute(original: Any, module: nn.Module, **kwargs: Any) -> nn.Module:
    from fairseq.criterions import FairseqCriterion

    classifies = getattr(module, "classification_heads", None)
    if not kwargs.get("find_unused_parameters") and (
        classifies or isinstance(module, FairseqCriterion)
    ):
        logger.info(
            f"{type(module).__name__}: --find-unused-parameters is turned on, since "
            "a classifier has parameters that get no gradient"
        )
        kwargs["find_unused_parameters"] = True
    if all(parameter.device.type == "cpu" for parameter in module.parameters()):
        kwargs |= {"device_ids": None, "output_device": None}
    found: nn.Module = original(module, **kwargs)
    return found
