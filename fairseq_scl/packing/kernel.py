"""FlashAttention for variable lengths, and the check that decides whether to use it.

The operator is private to PyTorch. ``torch.nn.attention.varlen`` wraps it but omits
dropout, which training needs. So before the first use on a device, attention, gradient
and dropout are checked on small inputs. If the check fails, attention is computed on
padded rows instead.
"""

import functools
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_scl.packing.layout import Layout

logger = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)
HEADS = 2  # number of heads of the inputs of the check


def kernel_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, layout: Layout, p: float
) -> Tensor:
    """Compute the same as ``attention`` on packed rows with FlashAttention.

    The kernel compares 8 random bits with 1 - p, so the probability of keeping an entry
    can be off by up to 1/256. Entries are scaled by 1 / (1 - p).
    """
    one_each = len(query) < len(key)
    output: Tensor = torch.ops.aten._flash_attention_forward(
        *(rows.view(len(rows), heads, -1) for rows in (query, key, value)),
        layout.one_each if one_each else layout.starts32,
        layout.starts32,
        1 if one_each else layout.longest,
        layout.longest,
        p,
        False,  # not causal
        False,  # do not return the dropout mask
    )[0]
    return output.flatten(1)


@functools.cache
def has_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Return whether the kernel works here: half precision on Ampere GPUs or later.

    The size of a head must be a multiple of 8 and at most 256.
    """
    if (
        device.type != "cuda"
        or dtype not in HALF
        or head_size % 8
        or head_size > 256
        or torch.cuda.get_device_capability(device)[0] < 8
    ):
        return False
    try:
        problem = find_problem(device, dtype, head_size)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError) as error:  # missing or different operator
        problem = f"it failed: {str(error).splitlines()[0]}"
    if problem:
        logger.warning(f"packed attention is not using FlashAttention: {problem}")
    return not problem


def find_problem(
    device: torch.device, dtype: torch.dtype, head_size: int
) -> str | None:
    """Check the kernel against the expected results; return what is wrong, if anything.

    PyTorch's random state is preserved.
    """
    devices = [device] if device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices),
    ):
        for one_each in (False, True):
            if not _is_attention(device, dtype, head_size, one_each):
                return "its output or gradient is wrong"
            if not _is_dropout(device, dtype, head_size, one_each):
                return "its dropout is wrong"
    return None


def _is_attention(
    device: torch.device, dtype: torch.dtype, head_size: int, one_each: bool
) -> bool:
    """Compare with float32 attention sentence by sentence, without dropout."""
    lengths = [1, 5, 30, 64]
    layout = Layout.of(lengths, lengths[-1], device)
    random = torch.Generator().manual_seed(0)
    counts = [len(lengths) if one_each else sum(lengths), sum(lengths), sum(lengths)]
    inputs = [
        torch.randn(count, HEADS * head_size, generator=random).to(device, dtype)
        for count in (*counts, counts[0])
    ]
    *rows, d_output = inputs
    for part in rows:
        part.requires_grad_()
    query, key, value = rows
    output = kernel_attention(query, key, value, HEADS, layout, 0.0)
    found = [output, *torch.autograd.grad(output, rows, d_output)]
    exact = [part.detach().float().requires_grad_() for part in rows]
    wanted_output = _sentence_by_sentence(exact, lengths, one_each)
    gradients = torch.autograd.grad(wanted_output, exact, d_output.float())
    return all(
        torch.allclose(one.float(), other, rtol=0.03, atol=0.03)
        for one, other in zip(found, (wanted_output, *gradients), strict=True)
    )


def _sentence_by_sentence(
    rows: Sequence[Tensor], lengths: list[int], one_each: bool
) -> Tensor:
    splits = ([1] * len(lengths) if one_each else lengths, lengths, lengths)
    parts = [part.split(split) for part, split in zip(rows, splits, strict=True)]
    outputs = []
    for sentence in zip(*parts, strict=True):
        by_head = [s.view(len(s), HEADS, -1).transpose(0, 1) for s in sentence]
        output = F.scaled_dot_product_attention(*by_head)
        outputs.append(output.transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def _is_dropout(
    device: torch.device, dtype: torch.dtype, head_size: int, one_each: bool
) -> bool:
    """Recover the dropped weights from the output and compare the gradient with them.

    Queries and keys of 0 give equal weights. The value of token j is the j-th unit
    vector, so entry j of an output is the weight of token j.
    """
    sentences, length, p = 256, 8, 0.25
    layout = Layout.of([length] * sentences, length, device)
    each = 1 if one_each else length
    size = HEADS * head_size
    value = torch.eye(length, head_size, device=device, dtype=dtype)
    value = value.repeat(sentences, HEADS).requires_grad_()
    query, key = (value.new_zeros(sentences * n, size) for n in (each, length))
    output = kernel_attention(query, key, value, HEADS, layout, p)
    random = torch.Generator().manual_seed(0)
    d_output = torch.randn(len(query), size, generator=random).to(device, dtype)
    (gradient,) = torch.autograd.grad(output, value, d_output)
    by_sentence = (sentences, each, HEADS, head_size)
    weights = output.detach().float().view(by_sentence)[..., :length]
    wanted = torch.einsum(
        "sihj,sihc->sjhc", weights, d_output.float().view(by_sentence)
    )
    kept = weights > 0
    scaled = torch.full_like(weights, 1 / (length * (1 - p))) * kept
    return (
        torch.allclose(weights, scaled, rtol=0.01)
        and abs(float(kept.float().mean()) - (1 - p)) < 0.03
        and torch.allclose(gradient.float().view_as(wanted), wanted, 0.03, 0.03)
    )
