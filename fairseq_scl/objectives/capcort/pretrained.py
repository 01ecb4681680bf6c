"""z_pre of CAPCORT (arXiv 2205.11603): features of the encoder before fine-tuning.

They are stored in a table over the training set, computed once, or come from a second,
frozen encoder.
"""

import copy
from typing import Any

import numpy as np
import torch
from fairseq.data.data_utils import batch_by_size
from torch import Tensor, nn

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.errors import InputError
from fairseq_scl.models.features import classification_features, unwrapped

STATES_KEY = "final_states"
# Tokens per batch, padding included, when the targets are computed (without gradients).
TOKENS_AT_ONCE = 8192


def frozen_copy(model: nn.Module, checkpoint: str) -> nn.Module:
    """Copy a model, bare or wrapped, in evaluation mode and without gradients.

    The copy has the model's device and dtype. Its weights are those of the checkpoint,
    or those of the model if ``checkpoint`` is empty.

    Raises:
        InputError: the checkpoint is missing, damaged or has another architecture.
    """
    held: nn.Module = copy.deepcopy(unwrapped(model))
    held.zero_grad(set_to_none=True)
    if checkpoint:
        weights = load_checkpoint(checkpoint).get("model", {})
        try:
            held.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise InputError(
                f"--capcort-pretrained: {checkpoint} does not fit --arch: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error
    return held.eval().requires_grad_(False)


@torch.no_grad()
def pretrained_states(
    model: nn.Module, net_input: dict[str, Any], head: str, kind: str
) -> Tensor:
    """Compute z_pre of a batch with a model in evaluation mode.

    ``kind`` is ``"cls"``, the final state at ``<s>``, or ``"mean"``.

    Returns:
        ``(N, D)``, float32 for ``"mean"``, else the dtype of the model.
    """
    with classification_features(model, head, kind, STATES_KEY):
        _, extra = model(**net_input, features_only=True, classification_head_name=head)
    states: Tensor = extra[STATES_KEY]
    return states


def stored_states(
    model: nn.Module, dataset: Any, head: str, kind: str, longest: int
) -> Tensor:
    """Compute z_pre of a whole training set.

    Args:
        model: result of :func:`frozen_copy`.
        dataset: a fairseq dataset; its examples have the ids 0 … N-1.
        head: name of the classification head.
        kind: as for :func:`pretrained_states`.
        longest: examples with more tokens are skipped, as in fairseq.

    Returns:
        ``(N, D)`` float32, on the device of the model; NaN for skipped examples.
    """
    device = next(model.parameters()).device
    sizes = np.array([dataset.num_tokens(i) for i in range(len(dataset))])
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] <= longest]
    most = max(TOKENS_AT_ONCE, int(sizes[order].max(initial=0)))
    table = torch.empty(0, device=device)
    for numbers in batch_by_size(order, sizes.item, max_tokens=most):
        batch = dataset.collater([dataset[i] for i in numbers])
        net_input = {
            key: value.to(device) if isinstance(value, Tensor) else value
            for key, value in batch["net_input"].items()
        }
        rows = pretrained_states(model, net_input, head, kind)
        if not table.numel():
            shape = len(sizes), rows.shape[1]
            table = torch.full(shape, float("nan"), device=device)
        table[batch["id"].to(device)] = rows.float()
    return table
