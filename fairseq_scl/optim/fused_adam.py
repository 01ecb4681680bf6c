"""fairseq's Adam in one pass over memory.

Updating 22 million weights of a small encoder takes fairseq's Adam as long as computing
them: it goes through memory some ten times. PyTorch's fused kernel goes once.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from torch import Tensor
from torch.optim.adamw import adamw

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError


class FusedAdam(Adam):
    """fairseq's ``Adam`` with the same formula, state and options, but faster.

    Parameters that are not float32 or float64 go the stock way.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        if any(p.dtype not in (torch.float32, torch.float64) for p in self._moving()):
            return super().step(closure)
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state(parameter)
                    state["step"] += 1
                    key = parameter.device, parameter.dtype, state["step"]
                    alike[key].append(parameter)
            for (device, _, step), parameters in alike.items():
                self._update(group, parameters, step, device)
        return loss

    def _moving(self) -> list[Tensor]:
        return [p for g in self.param_groups for p in g["params"] if p.grad is not None]

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], step: int, device: Any
    ) -> None:
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        # PyTorch adds ε after the bias correction, fairseq before.
        eps = group["eps"] / math.sqrt(1 - beta2**step)
        before = torch.full((len(states),), step - 1.0, device=device)
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
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


@dataclass
class FairseqFusedAdamConfig(FairseqAdamConfig):
    """The options of fairseq's ``adam``."""


@register_optimizer("fused_adam", dataclass=FairseqFusedAdamConfig)
class FairseqFusedAdam(FairseqAdam):
    """``--optimizer fused_adam``: as ``--optimizer adam``, but faster."""

    def __init__(self, cfg: FairseqFusedAdamConfig, params: Any) -> None:
        FairseqOptimizer.__init__(self, cfg)
        for flag, value in (
            ("--tpu", getattr(cfg, "tpu", False)),
            ("--fp16-adam-stats", cfg.fp16_adam_stats),
            ("--use-old-adam", cfg.use_old_adam),
        ):
            if value:
                with exit_on_input_error():
                    raise InputError(
                        f"{flag} does not go with --optimizer fused_adam: use adam"
                    )
        self._optimizer = FusedAdam(params, **self.optimizer_config)
