"""fairseq's Adam in one pass over memory.

For a small encoder of 22 million weights, an update with fairseq's Adam takes as long
as computing the gradients, because it passes over memory about ten times. PyTorch's
fused kernel passes once.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from torch import Tensor
from torch.optim.adamw import adamw

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError

HALF = (torch.float16, torch.bfloat16)
# Half-precision parameters are cast this many at a time, so that a cast takes 128 MB.
CAST_AT_ONCE = 2**25


class FusedAdam(Adam):
    """fairseq's ``Adam`` with the same formula, state and options, but faster.

    As in fairseq's, half-precision parameters (``--memory-efficient-fp16``) have their
    state in float32 and are cast to float32 for the update and back.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state(parameter)
                    state["step"] += 1
                    key = parameter.device, parameter.dtype, state["step"]
                    alike[key].append(parameter)
            for (_, dtype, step), parameters in alike.items():
                size = CAST_AT_ONCE if dtype in HALF else math.inf
                for part in _parts(parameters, size):
                    self._update(group, part, step)
        return loss

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        half = parameter.dtype in HALF
        dtype = torch.float32 if half else parameter.dtype
        if not state:
            state["step"] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            if name not in state:
                state[name] = torch.zeros_like(parameter, dtype=dtype)
            elif half:  # fairseq keeps a restored state on its old device
                state[name] = state[name].to(parameter.device, dtype)
        return state

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], step: int
    ) -> None:
        half = parameters[0].dtype in HALF
        values = parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        if half:
            values, gradients = _float32(parameters), _float32(gradients)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        # PyTorch adds ε after the bias correction, fairseq before it.
        eps = group["eps"] / math.sqrt(1 - beta2**step)
        before = torch.full((len(states),), step - 1.0, device=values[0].device)
        adamw(
            values,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            list(before.unbind()),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=eps,
            maximize=False,
        )
        if half:
            torch._foreach_copy_(parameters, values)


def _parts(parameters: list[Tensor], size: float) -> Iterator[list[Tensor]]:
    """Split a list of tensors into parts of at most ``size`` elements, if possible."""
    part: list[Tensor] = []
    total = 0
    for parameter in parameters:
        if part and total + parameter.numel() > size:
            yield part
            part, total = [], 0
        part.append(parameter)
        total += parameter.numel()
    yield part


def _float32(tensors: list[Tensor]) -> list[Tensor]:
    """Cast tensors of one device to float32 with one kernel, into one buffer."""
    flat = tensors[0].new_empty(sum(t.numel() for t in tensors), dtype=torch.float32)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    casts = [p.view(t.shape) for p, t in zip(pieces, tensors, strict=True)]
    torch._foreach_copy_(casts, tensors)
    return casts


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FairseqFusedAdam(FairseqAdam):
    """``--optimizer fused_adam``: the same as ``--optimizer adam``, but faster."""

    @exit_on_input_error()
    def __init__(self, cfg: FairseqAdamConfig, params: Any) -> None:
        FairseqOptimizer.__init__(self, cfg)
        for flag, value in (
            ("--tpu", getattr(cfg, "tpu", False)),
            ("--fp16-adam-stats", cfg.fp16_adam_stats),
            ("--use-old-adam", cfg.use_old_adam),
        ):
            if value:
                raise InputError(
                    f"{flag} is not supported by --optimizer fused_adam: use adam"
                )
        self._optimizer = FusedAdam(params, **self.optimizer_config)
