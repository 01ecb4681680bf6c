"""Fault: fairseq's default ``--ddp-backend`` cannot train classifiers.

RoBERTa's language-model head is unused in classification, so PyTorch's
DistributedDataParallel stops at the second update without
``--find-unused-parameters``. On CPUs it does not even start, because fairseq passes it
a GPU number. Present in every version of fairseq.
"""

import logging
from typing import Any

from torch import nn

from fairseq_scl.compat.wrapping import wrap

logger = logging.getLogger(__name__)


def apply() -> None:
    """Find unused parameters of classifiers, and do not pass a GPU on CPUs."""
    from fairseq.models import distributed_fairseq_model

    wrap(distributed_fairseq_model, "DistributedDataParallel", _distribute)


def _distribute(original: Any, module: nn.Module, **kwargs: Any) -> nn.Module:
    from fairseq.criterions import FairseqCriterion

    classifies = getattr(module, "classification_heads", None)
    if not kwargs.get("find_unused_parameters") and (
        classifies or isinstance(module, FairseqCriterion)
    ):
        logger.info(
            f"{type(module).__name__}: --find-unused-parameters is turned on, because "
            "some parameters of a classifier do not get a gradient"
        )
        kwargs["find_unused_parameters"] = True
    if all(parameter.device.type == "cpu" for parameter in module.parameters()):
        kwargs |= {"device_ids": None, "output_device": None}
    found: nn.Module = original(module, **kwargs)
    return found
