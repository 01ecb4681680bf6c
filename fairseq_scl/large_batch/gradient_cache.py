"""A large contrastive batch in the memory of a small one: gradient caching.

After Gao et al. (2021), "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", arXiv 2101.06983. A loss depends on a batch only through its features
and logits. So a step works as follows:

1. Compute features and logits chunk by chunk, without a graph.
2. Compute the loss of the whole batch and its gradient with respect to them.
3. Compute each chunk again with a graph, and backpropagate the gradient to the weights.

The result is that of the whole batch; the cost is a second forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_scl.criterions.protocol import ContrastiveCriterion
from fairseq_scl.errors import InputError
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.packing.encoder import LENGTHS


@dataclass(frozen=True)
class Chunks:
    """A batch split into chunks.

    Attributes:
        inputs: the model's input for each chunk.
        sizes: the number of examples in each chunk.
        order: ``(N,)`` int64, the rows of the batch in the order of the chunks.
    """

    inputs: list[dict[str, Any]]
    sizes: list[int]
    order: Tensor

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join one tensor per chunk into ``(N, …)``, in the order of the batch."""
        return torch.cat(list(parts))[self.order.argsort()]

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split ``(N, …)``, in the order of the batch, into one tensor per chunk."""
        return rows[self.order].split(self.sizes)


def unsupported(model: nn.Module) -> str | None:
    """Name the part of a model that prevents splitting a batch, or return ``None``."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return f"{type(module).__name__} ({name}), which depends on the whole batch"
    args = getattr(model, "args", None)
    if getattr(args, "encoder_layerdrop", 0):
        return "--encoder-layerdrop, which drops other layers in each chunk"
    for name in (
        *("quant_noise_pq", "quant_noise_scalar"),
        *("mha_reg_scale_factor", "ffn_reg_scale_factor"),
        "spectral_norm_classification_head",  # each pass changes the norm's estimate
    ):
        if getattr(args, name, 0):
            return f"--{name.replace('_', '-')}"
    return None


def cut(net_input: dict[str, Any], size: int) -> Chunks:
    """Split a batch of N examples into about N / ``size`` chunks of similar cost.

    Examples are sorted by length and chunks have similar numbers of tokens: chunks of
    short sentences hold more than ``size`` examples, those of long ones fewer. A chunk
    is as wide as its longest sentence. This needs a device sync unless the batch
    carries its lengths, as batches for ``--packed`` do.

    Args:
        net_input: of a collated batch: ``src_tokens`` ``(N, T)``, padded on the right,
            ``src_lengths`` ``(N,)`` and others with one row per example.
        size: examples per chunk, at least 1.
    """
    tokens = net_input["src_tokens"]
    known = net_input.get(LENGTHS)
    lengths = net_input["src_lengths"].tolist() if known is None else known
    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    ordered = np.array(lengths)[rows]
    middle = ordered.cumsum() - ordered / 2
    number = (middle * -(-len(rows) // size) / ordered.sum()).astype(int)
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist()]
    order = torch.tensor(rows, device=tokens.device)
    moved = {
        key: value[order] if isinstance(value, Tensor) else _picked(value, rows)
        for key, value in net_input.items()
    }
    inputs, sizes = [], []
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        width = int(ordered[end - 1])
        inputs.append(
            {
                key: _part(value, slice(start, end), tokens.shape[1], width)
                for key, value in moved.items()
            }
        )
        sizes.append(end - start)
    return Chunks(inputs, sizes, order)


def first_examples(sample: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a batch with the first ``count`` examples of a collated batch."""
    few = {
        key: None if value is None else value[:count]
        for key, value in sample["net_input"].items()
    }
    rows = {key: sample[key][:count] for key in ("id", "target")}
    return {**sample, **rows, "net_input": few}


def cached_step(
    sample: dict[str, Any],
    model: nn.Module,
    criterion: ContrastiveCriterion,
    optimizer: Any,
    size: int,
) -> tuple[Tensor, int, dict[str, Any]]:
    """Run forward and backward of a batch in chunks of about ``size`` examples.

    Dropout is the same in both passes: PyTorch's random state (of the CPU and of the
    batch's device) is saved before each chunk and restored. At the end it is the same
    as after a single pass through all chunks. The last chunk keeps its graph and is not
    computed again.

    Args:
        sample: a collated batch of more than ``size`` examples.
        model: in training mode, bare or wrapped. Workers exchange gradients only in the
            backward pass of one chunk.
        criterion: its loss may communicate with other workers once per step.
        optimizer: fairseq's; its ``backward`` scales the loss for half precision.
        size: as in :func:`cut`.

    Returns:
        what the criterion returns for the whole batch; the loss has no graph.

    Raises:
        InputError: the criterion has parameters, there are several workers and their
            ``--ddp-backend`` is not ``legacy_ddp``.
    """
    _check_parameters(criterion)
    chunks = cut(sample["net_input"], size)
    *others, last = chunks.inputs
    device = sample["net_input"]["src_tokens"].device
    states, parts = [], []
    for inputs in others:
        states.append(_RandomState(device))
        with torch.no_grad(), _autocast(optimizer):
            parts.append(criterion.model_outputs(model, inputs))
    with _without_exchange(model):
        with _autocast(optimizer):
            kept = criterion.model_outputs(model, last)
        after = _RandomState(device)
        outputs = [_leaf(chunks.join(rows)) for rows in zip(*parts, kept, strict=True)]
        with _autocast(optimizer):
            loss, sample_size, log = criterion.loss_of_outputs(model, sample, *outputs)
        gradients = _cut_up(_gradients(loss, outputs, optimizer), chunks)
        optimizer.backward(_carry(kept, gradients[-1]))
    del kept
    for number, inputs in enumerate(others):
        exchange = number == len(others) - 1
        with (
            nullcontext() if exchange else _without_exchange(model),
            nullcontext() if exchange else _read_rows_alone(model),
        ):
            states[number].restore()
            with _autocast(optimizer):
                again = criterion.model_outputs(model, inputs)
            optimizer.backward(_carry(again, gradients[number]))
            del again
    after.restore()
    return loss.detach(), sample_size, log


def _check_parameters(criterion: Any) -> None:
    """Refuse a criterion whose parameters PyTorch's DistributedDataParallel holds.

    It only exchanges gradients of parameters that its own forward pass uses.
    """
    if isinstance(getattr(criterion, "module", None), DistributedDataParallel):
        raise InputError(
            "--chunk with a criterion that has parameters needs --ddp-backend "
            "legacy_ddp when there are several workers"
        )


def _gradients(
    loss: Tensor, outputs: list[Tensor], optimizer: Any
) -> list[Tensor | None]:
    """Return the gradients of the outputs; accumulate those of parameters as usual.

    This takes a single backward pass, because other workers may wait for this worker's
    part in it. The optimizer scales the loss, as it does on workers whose batch is a
    single chunk: gathered features get the sum of all workers' gradients. An auxiliary
    variable whose own gradient is 1 reveals the scale.
    """
    one = loss.new_zeros((), requires_grad=True)
    optimizer.backward(loss + one)
    return [
        None if rows.grad is None or one.grad is None else rows.grad / one.grad
        for rows in outputs
    ]


def _cut_up(
    whole: Sequence[Tensor | None], chunks: Chunks
) -> list[tuple[Tensor | None, ...]]:
    """Return, for each chunk, the gradients with respect to its outputs."""
    none = [None] * len(chunks.sizes)
    parts = [none if rows is None else chunks.split(rows) for rows in whole]
    return list(zip(*parts, strict=True))


def _carry(
    outputs: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]
) -> Tensor | int:
    """Return a scalar whose gradient with respect to the outputs is the given one."""
    return sum(
        (rows.to(gradient.dtype) * gradient).sum()
        for rows, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None
    )


class _RandomState:
    """PyTorch's random state, the only one that fairseq's encoders draw from."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        if device.type == "cuda":
            self.cuda = torch.cuda.get_rng_state(device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, self.device)


def _leaf(rows: Tensor) -> Tensor:
    # An unscaled gradient would underflow in half precision.
    return at_least_float32(rows).detach().requires_grad_()


def _autocast(optimizer: Any) -> AbstractContextManager[Any]:
    """Use autocast as fairseq's own step does, with one context per pass.

    Autocast caches converted weights until its context ends, and weights cached in a
    pass without a graph would get no gradient.
    """
    return torch.autocast("cuda", enabled=isinstance(optimizer, AMPOptimizer))


def _without_exchange(model: Any) -> AbstractContextManager[Any]:
    return model.no_sync() if hasattr(model, "no_sync") else nullcontext()


@contextmanager
def _read_rows_alone(model: nn.Module) -> Iterator[None]:
    """Within the block, add gradients of embeddings only to the rows that were read.

    A dense gradient over the whole vocabulary for each chunk, almost all of it zero,
    takes a twentieth of a small encoder's step on a CPU. Passes that exchange gradients
    must use PyTorch's dense gradients.
    """
    read: list[tuple[nn.Embedding, Tensor, Tensor]] = []

    def detach(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = output.detach().requires_grad_()
        read.append((module, inputs[0], rows))
        return rows

    handles = [
        module.register_forward_hook(detach)
        for module in model.modules()
        if type(module) is nn.Embedding
        and not (module.scale_grad_by_freq or module.sparse)
        and module.weight.device.type == "cpu"
        and module.weight.grad is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for module, numbers, rows in read:
        if rows.grad is not None and module.weight.grad is not None:
            numbers, gradient = numbers.flatten(), rows.grad.flatten(0, -2)
            if module.padding_idx is not None:
                is_padding = numbers.eq(module.padding_idx)[:, None]
                gradient = gradient.masked_fill(is_padding, 0)
            module.weight.grad.index_add_(0, numbers, gradient)


def _picked(value: Any, rows: list[int]) -> Any:
    return None if value is None else [value[row] for row in rows]


def _part(value: Any, rows: slice, columns: int, width: int) -> Any:
    if value is None:
        return None
    part = value[rows]
    is_padded = isinstance(part, Tensor) and part.dim() == 2
    return part[:, :width] if is_padded and part.shape[1] == columns else part
