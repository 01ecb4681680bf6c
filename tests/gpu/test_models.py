"""Packed attention, gradient caching and criteria on a GPU, in each precision."""

import contextlib
import copy
import itertools

import pytest
import torch
from fairseq.optim import AMPOptimizer

from fairseq_scl.optim.fused_adam import FusedAdam
from fairseq_scl.packing import attention as packed_attention
from fairseq_scl.packing.encoder import pack
from fairseq_scl.packing.kernel import find_problem, has_kernel
from helpers import gradients, packed
from helpers.kernels import Kernels
from helpers.packed import HEAD, LENGTH_CASES, batch, results

pytestmark = pytest.mark.gpu
# Heads of 64, as in RoBERTa.
SHAPE = ["--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "256"]
SHAPE += ["--activation-fn", "tanh"]
PRECISIONS = ["fp32", "fp16", "bf16", "amp fp16", "amp bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def in_precision(model, name, device):
    """Return the model in a precision, and the context to use it in."""
    dtype = DTYPES[name.split()[-1]]
    if name.startswith("amp"):
        return model.to(device), torch.autocast(device.type, dtype)
    return model.to(device, dtype), contextlib.nullcontext()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_size", [32, 64, 128])
def test_kernel_passes_its_check(cuda, dtype, head_size):
    device = torch.device("cuda", torch.cuda.current_device())
    assert find_problem(device, dtype, head_size) is None
    with torch.inference_mode():
        assert has_kernel(device, dtype, head_size)


@pytest.mark.parametrize("case", LENGTH_CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_packed_is_as_close_to_exact_as_the_stock_encoder(
    device, data, precision, case
):
    model, tokens = packed.build(data, *SHAPE), batch(LENGTH_CASES[case])
    with torch.no_grad():  # 0.3 is too large for this width
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.3)
    exact = results(copy.deepcopy(model).double(), tokens)
    found = []
    for kind in (lambda model: model, pack):
        one, context = in_precision(kind(copy.deepcopy(model)), precision, device)
        with context:
            found.append(results(one, tokens.to(device)))
    largest = max(gradient.abs().max() for gradient in exact[1].values())
    for name, wanted in {"logits": exact[0], **exact[1]}.items():
        stock, ours = (
            (logits if name == "logits" else gradients[name]).cpu().double() - wanted
            for logits, gradients in found
        )
        # The exact gradient of a key bias is 0, so both results are rounding errors.
        rounding = 1e-3 * wanted.abs().max() + 1e-4 * largest + 1e-6
        bound = 3 * stock.abs().max() + rounding
        assert ours.abs().max() <= bound, name


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp fp16"])
def test_half_precision_uses_the_kernel_with_dropout(
    cuda, data, precision, monkeypatch
):
    calls = []
    real = packed_attention.kernel_attention
    monkeypatch.setattr(
        packed_attention, "kernel_attention", lambda *a: calls.append(a[-1]) or real(*a)
    )
    model = pack(packed.build(data, *SHAPE, attention_dropout=0.1))
    model, context = in_precision(model, precision, cuda)
    with context:
        results(model, batch(LENGTH_CASES["ragged"]).to(cuda))
    assert calls == [0.1, 0.1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_dropout_has_the_stock_encoders_mean_and_spread(
    device, data, precision
):
    model = packed.build(data, *SHAPE, attention_dropout=0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    passes, tokens = 400, batch([4, 2, 7]).to(device)
    drawn = []
    for kind in (lambda model: model, pack):
        one, context = in_precision(kind(copy.deepcopy(model)), precision, device)
        with torch.no_grad(), context:
            logits = [
                one(tokens, classification_head_name=HEAD)[0] for _ in range(passes)
            ]
        drawn.append(torch.stack(logits).cpu().double())
    spread = [d.std(0) for d in drawn]
    error = ((spread[0] ** 2 + spread[1] ** 2) / passes).sqrt()
    rounding = 2e-2 * drawn[0].abs().max() if precision == "bf16" else 0
    assert ((drawn[0].mean(0) - drawn[1].mean(0)).abs() < 5 * error + rounding).all()


class Amp(AMPOptimizer):
    """fairseq's optimizer for --amp without its scaling."""

    def __init__(self):
        pass

    def backward(self, loss):
        loss.backward()


@pytest.mark.parametrize("flags", ["", "--packed", "--packed --scl-features pooled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "amp fp16"])
def test_chunks_repeat_the_masks_of_their_first_pass(device, data, precision, flags):
    """Loss and gradients equal those of one graph over the same passes."""
    if precision == "amp fp16" and device.type == "cpu":
        pytest.skip("--amp enables autocast on CUDA devices only")
    module = gradients
    toy = module.build(data, 4, *module.ON, *SHAPE, *flags.split(), dtype=torch.float32)
    toy.model, context = in_precision(toy.model, precision, device)
    toy.criterion.to(device)
    sample = to_device(toy.batch(module.SIZE), device)
    toy.batch = lambda size: copy.copy(sample)
    optimizer = Amp() if precision == "amp fp16" else None
    found = module.step(toy, optimizer, copy.copy(sample))
    with context:
        wanted = module.with_graph(toy, 4)
    within = {"fp32": 1e-4, "fp16": 2e-2}.get(precision, 0.1)
    torch.testing.assert_close(found[1], wanted[1], rtol=within, atol=0)
    largest = max(g.float().abs().max() for g in wanted[0].values())
    for name, gradient in wanted[0].items():
        error = (found[0][name].float() - gradient.float()).abs().max()
        assert error <= within * (gradient.float().abs().max() + 1e-2 * largest), name


def graphed(model, batches, context, graphs):
    """Return the results of each batch, and the number of captured passes."""
    pack(model, cuda_graphs=graphs)
    found = []
    for tokens in batches:
        with context:
            logits, one = results(model, tokens)
        found.append((logits, {name: g.clone() for name, g in one.items()}))
    return found, len(model.cuda_graphs._passes) if graphs else 0


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp fp16", "amp bf16"])
def test_cuda_graphs_equal_packed_passes(cuda, data, precision):
    """Batches of several shapes in turn; each shape is captured at its second batch."""
    cases = [LENGTH_CASES[name] for name in ("ragged", "longest first", "single token")]
    batches = [batch(case, seed).to(cuda) for seed in range(4) for case in cases]
    model = packed.build(data, *SHAPE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.3)
    model, context = in_precision(model, precision, cuda)
    plain, _ = graphed(copy.deepcopy(model), batches, context, False)
    found, count = graphed(model, batches, context, True)
    assert count == len(cases)
    for (logits, one), (wanted_logits, wanted) in zip(found, plain, strict=True):
        torch.testing.assert_close(logits, wanted_logits, rtol=2e-2, atol=2e-2)
        assert one.keys() == wanted.keys()
        largest = max(g.float().abs().max() for g in wanted.values())
        for name, gradient in wanted.items():
            error = (one[name].float() - gradient.float()).abs().max()
            assert error <= 0.03 * (gradient.abs().max() + 0.1 * largest), name


def test_cuda_graphs_draw_new_dropout_in_each_replay(cuda, data):
    model = packed.build(data, *SHAPE, dropout=0.3, attention_dropout=0.3)
    tokens = batch(LENGTH_CASES["ragged"]).to(cuda)
    model, context = in_precision(model, "bf16", cuda)
    found, count = graphed(model, [tokens] * 6, context, True)
    assert count == 1
    logits = [one for one, _ in found]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(logits))


def test_cuda_graphs_follow_the_weights_and_add_gradients(cuda, data):
    model = pack(packed.build(data, *SHAPE), cuda_graphs=True).to(cuda, torch.float16)
    tokens = batch(LENGTH_CASES["ragged"]).to(cuda)

    def logits():
        return model(tokens, classification_head_name=HEAD)[0]

    for _ in range(3):
        once = results(model, tokens)
    gradient = {name: one.clone() for name, one in once[1].items()}
    logits().sum().backward()  # without clearing the gradients
    names = "encoder.sentence_encoder.layers.0.fc1.weight"
    assert not torch.equal(dict(model.named_parameters())[names].grad, gradient[names])
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(0.5)
    half = logits().detach()
    assert not torch.equal(half, once[0])
    model.cuda_graphs = None
    torch.testing.assert_close(half, logits().detach(), rtol=2e-2, atol=2e-2)


def to_device(sample, device):
    """Move all tensors of a batch."""
    if torch.is_tensor(sample):
        return sample.to(device)
    if isinstance(sample, dict):
        return {key: to_device(value, device) for key, value in sample.items()}
    return sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_adam_launches_few_kernels_in_each_precision(device, dtype):
    parameters = [
        torch.nn.Parameter(torch.randn(8, device=device).to(dtype)) for _ in range(200)
    ]
    adam = FusedAdam(parameters, lr=0.1, weight_decay=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.clone() for parameter in parameters]
    adam.step()
    with Kernels() as kernels:
        adam.step()
    # On a CPU, a foreach function is a loop but counts once.
    assert kernels.total < 50
    assert all(not torch.equal(b, p) for b, p in zip(before, parameters, strict=True))
