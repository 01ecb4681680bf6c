"""CUDA graphs: launch all kernels of a training pass at once.

At batch size 16, the encoder's forward and backward pass consist of about a thousand
kernels that take microseconds each, and launching them one by one takes several times
longer than running them. A CUDA graph launches them together, but always with the same
shapes and on the same memory. So:

1. The rows of a batch are copied to fixed buffers. Their number is rounded up to a
   multiple of 64. The rows that are left over form one more sentence; no loss depends
   on it, so its gradient is exactly 0.
2. The kernels of a pass depend on the number of sentences, the number of rows and the
   bound on the length of a sentence, a power of two. When a combination occurs for the
   second time, its forward and backward pass are captured; later they are replayed.
3. A backward pass adds the gradients of the weights to fixed buffers, which become the
   ``.grad`` of the weights.

All graphs share the memory of their intermediate results. So the backward pass of a
batch must run before the next forward pass.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fairseq_scl.packing.kernel import has_kernel
from fairseq_scl.packing.layers import hidden_states
from fairseq_scl.packing.layout import Layout

logger = logging.getLogger(__name__)
ROWS = 64  # number of rows and shortest bound on lengths are multiples of this
MOST_GRAPHS = 64


class CudaGraphs:
    """The captured passes of one encoder; a copy of the model starts without any."""

    def __init__(self) -> None:
        self.latest = 0  # number of the latest forward pass
        self._warned = False
        self._anchor = torch.empty(0, requires_grad=True)
        self._forget([])

    def _forget(self, addresses: list[int]) -> None:
        self._addresses = addresses
        self._passes: dict[tuple[Any, ...], _Pass] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._gradients: list[Tensor] = []
        self._pool = torch.cuda.graph_pool_handle() if addresses else None

    def __deepcopy__(self, memo: Any) -> "CudaGraphs":
        return CudaGraphs()

    def __reduce__(self) -> tuple[type["CudaGraphs"], tuple[()]]:
        return CudaGraphs, ()

    def states(self, encoder: Any, tokens: Tensor, layout: Layout) -> Tensor | None:
        """Replay a training pass.

        Args:
            encoder: fairseq's transformer encoder, in training mode.
            tokens: ``(B, T)``.
            layout: layout of the batch.

        Returns:
            the states at ``<s>`` after the last layer, ``(B, D)`` in the layout's
            order; ``None`` if this pass is not captured, for example because it is the
            first with its shapes.
        """
        weights = [weight for weight in encoder.parameters() if weight.requires_grad]
        if not weights or not self._applies(encoder, tokens):
            return None
        addresses = [weight.data_ptr() for weight in weights]
        if addresses != self._addresses:  # moved, for example to another dtype
            self._forget(addresses)
        rows = (len(layout.index) // ROWS + 1) * ROWS
        longest = max(ROWS, 1 << (layout.longest - 1).bit_length())
        autocast = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        key = (len(layout.lengths), rows, longest, *autocast)
        found = self._passes.get(key)
        if found is None:
            if key not in self._seen or len(self._passes) == MOST_GRAPHS:
                self._seen.add(key)
                return None
            if not self._gradients:
                self._gradients = [torch.zeros_like(weight) for weight in weights]
            pairs = list(zip(weights, self._gradients, strict=True))
            found = _Pass(encoder, len(layout.lengths), rows, longest, pairs)
            found.fill(tokens, layout)
            found.capture(self._pool)
            self._passes[key] = found
        found.fill(tokens, layout)
        replay: Any = _Replay
        states: Tensor = replay.apply(self._anchor, found, self)
        return states[:-1]

    def warn(self, reason: str) -> None:
        """Log once why passes are not captured."""
        if not self._warned:
            logger.warning(f"--cuda-graphs has no effect: {reason}")
        self._warned = True

    def _applies(self, encoder: Any, tokens: Tensor) -> bool:
        dtype = encoder.embed_tokens.weight.dtype
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
        attention = encoder.layers[0].self_attn
        head_size = attention.embed_dim // attention.num_heads
        hooks = ("_forward_hooks", "_forward_pre_hooks")  # a replay would not call them
        if not has_kernel(tokens.device, dtype, head_size):
            self.warn(
                "it needs FlashAttention, which --packed uses on a GPU in half "
                "precision"
            )
            return False
        return attention.dropout_module.p < 1 and not any(
            getattr(module, hook) for module in encoder.modules() for hook in hooks
        )


class _Pass:
    """Forward and backward pass for one combination of shapes."""

    def __init__(
        self,
        encoder: nn.Module,
        sentences: int,
        rows: int,
        longest: int,
        weights: Sequence[tuple[nn.Parameter, Tensor]],
    ) -> None:
        device = weights[0][0].device
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.starts = torch.zeros(sentences + 2, dtype=torch.int64, device=device)
        self.starts[-1] = rows
        self.encoder = encoder
        self.longest = longest
        self.weights = weights

    def fill(self, tokens: Tensor, layout: Layout) -> None:
        """Copy a batch to the buffers; rows that are left over keep their tokens."""
        count = len(layout.index)
        self.tokens[:count] = tokens.flatten().index_select(0, layout.index)
        self.positions[:count] = layout.positions
        self.starts[:-1] = layout.starts

    def capture(self, pool: Any) -> None:
        """Capture both passes."""
        self.forward = capture(self._forward, pool)
        self.d_output = torch.zeros_like(self.output)
        self.backward = capture(self._backward, pool)
        del self._states

    def _forward(self) -> None:
        layout = Layout(
            lengths=[self.longest],
            index=torch.arange(len(self.tokens), device=self.tokens.device),
            positions=self.positions,
            padded=self.positions,
            starts=self.starts,
            back=self.starts,
            groups=[],
        )
        # Weights that autocast had converted outside the graph would not be updated.
        enabled = torch.is_autocast_enabled("cuda")
        with torch.enable_grad(), torch.autocast("cuda", None, enabled, False):
            (self._states,) = hidden_states(
                self.encoder, self.tokens, layout, (), mean=False
            )
        self.output = self._states.detach()

    def _backward(self) -> None:
        weights = [weight for weight, _ in self.weights]
        found = torch.autograd.grad(
            self._states, weights, self.d_output, allow_unused=True
        )
        used = [
            (weight, sum_, gradient)
            for (weight, sum_), gradient in zip(self.weights, found, strict=True)
            if gradient is not None
        ]
        self.weights = [(weight, sum_) for weight, sum_, _ in used]
        torch._foreach_add_([s for _, s, _ in used], [g for _, _, g in used])

    def add_gradients(self, d_output: Tensor) -> None:
        """Run the backward pass and add to the gradients of the weights."""
        self.d_output.copy_(d_output)
        clear = []
        for weight, gradient in self.weights:
            if weight.grad is None:
                clear.append(gradient)
            elif weight.grad.data_ptr() != gradient.data_ptr():
                gradient.copy_(weight.grad)
        if clear:
            torch._foreach_zero_(clear)
        self.backward()
        for weight, gradient in self.weights:
            weight.grad = gradient


def capture(function: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Capture the kernels of a function; return a function that replays them."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as those of data loaders, may use the GPU meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        function()
    return graph.replay


class _Replay(torch.autograd.Function):
    """Replays a pass; the anchor only makes autograd call ``backward``."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, found: _Pass, graphs: CudaGraphs) -> Tensor:
        graphs.latest += 1
        ctx.found, ctx.graphs, ctx.number = found, graphs, graphs.latest
        found.forward()
        return found.output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[None, None, None]:
        if ctx.number != ctx.graphs.latest:
            raise RuntimeError(
                "--cuda-graphs needs the backward pass of a batch before the next "
                "forward pass, which overwrites its intermediate results"
            )
        ctx.found.add_gradients(d_output)
        return None, None, None
