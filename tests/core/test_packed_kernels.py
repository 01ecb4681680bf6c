"""Packed attention on GPUs: its kernel, the check of it, and kernels per step."""

import functools

import pytest
import torch
import transformers

from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, probabilities
from fairseq_scl.packing import attention as packed_attention
from fairseq_scl.packing import kernel
from fairseq_scl.packing import layers as packed
from fairseq_scl.packing.encoder import LENGTHS
from fairseq_scl.packing.kernel import HALF, find_problem, has_kernel
from fairseq_scl.packing.layout import Layout
from helpers.encoders import make_sentences
from helpers.encoders import toy_model as toy_classifier
from helpers.kernels import Flash, count
from helpers.packed import HEAD, LENGTH_CASES, assert_packing_keeps, batch, build
from helpers.training import toy_model

DATA = {"words": 60}

CPU = torch.device("cpu")
LENGTHS_OF_16 = [3, 9, 12, 12, 5, 26, 17, 8, 8, 40, 31, 6, 4, 11, 10, 22]


@pytest.fixture
def flash(monkeypatch):
    """Put a CPU's version in the place of PyTorch's operator."""
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", Flash.operator)
    monkeypatch.setattr(Flash, "broken", "")
    monkeypatch.setattr(Flash, "calls", 0)
    return Flash


@pytest.fixture
def like_cuda(flash, monkeypatch):
    """Let CPU tensors go the way of CUDA's."""
    monkeypatch.setattr(packed, "CpuDropout", lambda: None)
    monkeypatch.setattr(packed, "_on_gpu", lambda _: True)
    monkeypatch.setattr(packed_attention, "has_kernel", lambda *_: True)
    return flash


@pytest.mark.parametrize(
    ("dtype", "head_size"), [(torch.float16, 8), (torch.bfloat16, 64)]
)
def test_the_check_passes_a_right_kernel(flash, dtype, head_size):
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert find_problem(CPU, dtype, head_size) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("broken", "named"),
    [("starts", "output or grad"), ("rate", "dropout"), ("backward", "dropout")],
)
def test_the_check_finds_what_is_wrong(flash, broken, named):
    flash.broken = broken
    assert named in find_problem(CPU, torch.float16, 64)


@pytest.fixture
def device(monkeypatch):
    """A CUDA device that is checked on the CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernel, "find_problem", lambda _, *on: find_problem(CPU, *on))
    has_kernel.cache_clear()
    yield torch.device("cuda")
    has_kernel.cache_clear()


def test_the_kernel_is_used_where_it_works(flash, device, monkeypatch):
    assert has_kernel(device, torch.bfloat16, 64)
    assert has_kernel(device, torch.float16, 64)
    calls = flash.calls
    assert has_kernel(device, torch.float16, 64)
    assert flash.calls == calls  # checked once
    assert not has_kernel(device, torch.float32, 64)
    assert not has_kernel(device, torch.float16, 20)
    assert not has_kernel(device, torch.float16, 512)
    assert not has_kernel(CPU, torch.float16, 64)
    has_kernel.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not has_kernel(device, torch.float16, 64)


def test_a_kernel_that_fails_is_not_used_and_said_once(flash, device, caplog):
    flash.broken = "absent"
    assert not has_kernel(device, torch.float16, 64)
    assert not has_kernel(device, torch.float16, 64)
    assert [r.message for r in caplog.records] == [
        "packed attention is not using FlashAttention: it failed: not compiled with "
        "flash attention"
    ]


def test_running_out_of_memory_in_the_check_is_not_a_verdict(
    flash, device, monkeypatch
):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernel, "find_problem", full)
    with pytest.raises(torch.OutOfMemoryError):
        has_kernel(device, torch.float16, 64)
    monkeypatch.setattr(kernel, "find_problem", lambda *_: None)
    assert has_kernel(device, torch.float16, 64)


@pytest.mark.parametrize("case", LENGTH_CASES)
@pytest.mark.parametrize("arch", ["roberta", "roberta_bert"])
def test_with_the_kernel_all_is_as_in_the_stock_encoder(data, like_cuda, arch, case):
    """Also with one product for query, key and value."""
    flags = ["--arch", arch, "--activation-fn", "tanh"]  # gelu is float32 in fairseq
    model = build(data, *flags, dtype=torch.float64)
    assert_packing_keeps(model, LENGTH_CASES[case], (1e-10, 1e-10))
    assert like_cuda.calls == 2  # layers


def test_gelu_of_half_precision_is_fairseqs(data, like_cuda):
    layer = build(data).encoder.sentence_encoder.layers[0]
    x = torch.randn(1000).half().mul(3).requires_grad_()
    ours, stock = packed._activation(layer, x), layer.activation_fn(x)
    # Some processors compute float16 directly; others round once, as fairseq does.
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=2e-5)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, stock)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_everything_dropped_does_not_need_the_kernel(data, like_cuda):
    assert_packing_keeps(build(data, attention_dropout=1.0), LENGTH_CASES["ragged"])
    assert like_cuda.calls == 0


@pytest.fixture
def classifier():
    """Return the classifier that tests share; not trained under a patch."""
    return load_classifier(toy_classifier())


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_predict_takes_the_kernel_in_half_precision(
    classifier, like_cuda, dtype, monkeypatch
):
    monkeypatch.setattr(packed_attention, "has_kernel", lambda _, d, __: d in HALF)
    sentences = [example.sentences for example in make_sentences(12, seed=5)]
    encoded, _ = encode(classifier, sentences)
    exact = probabilities(classifier, encoded)
    assert like_cuda.calls == 0
    classifier.model.to(dtype)
    found = probabilities(classifier, encoded)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)
    assert like_cuda.calls == (2 if dtype in HALF else 0)  # layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("longest", [1, 15, 16, 17, 33])
def test_the_mask_is_made_once_and_aligned(dtype, longest):
    layout = Layout.of([longest, 1], longest, CPU)
    mask = layout.mask(dtype)
    assert layout.mask(dtype) is mask
    assert mask.shape == (2, 1, 1, longest)
    assert mask.dtype == dtype
    assert [s % 16 for s in mask.stride()[:-1]] == [0, 0, 0]
    assert mask[0, 0, 0].tolist() == [0.0] + [float("-inf")] * (longest - 1)
    assert not mask[1].any()


def test_equal_lengths_need_neither_mask_nor_padding(data, monkeypatch):
    monkeypatch.setattr(packed, "CpuDropout", lambda: None)
    monkeypatch.setattr(Layout, "mask", None)
    assert_packing_keeps(build(data), [6, 6, 6])


LAYERS = 4


@functools.cache
def hugging_face_kernels(layers):
    """Count forward and backward kernels of Hugging Face's classifier with SDPA."""
    config = transformers.RobertaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        attn_implementation="sdpa",
    )
    model = transformers.RobertaForSequenceClassification(config).train()
    model = model.to("meta", torch.float16)
    tokens = batch(LENGTHS_OF_16).to("meta")
    target = torch.zeros(16, dtype=torch.int64, device="meta")
    # transformers 5 reads the mask's values, which "meta" does not have; 4 needs it.
    old = transformers.__version__.startswith("4.")
    mask = torch.ones_like(tokens) if old else None
    return count(lambda: model(tokens, mask, labels=target).loss)


def fairseq_kernels(data, layers, *flags):
    """Count those of a step of stock fairseq, or of ours with ``--packed``."""
    toy = toy_model([data, "--encoder-layers", str(layers), *flags])
    model = toy.model.train().to("meta", torch.float16)
    tokens = batch(LENGTHS_OF_16).to("meta")
    given = {LENGTHS: LENGTHS_OF_16} if "--packed" in flags else {}

    def forward():
        return model(tokens, classification_head_name=HEAD, **given)[0].sum()

    return count(forward)


def per_layer(of_layers):
    """Return the kernels of one layer more, forward and backward."""
    few, many = of_layers(LAYERS), of_layers(2 * LAYERS)
    return [(b.total - a.total) / LAYERS for a, b in zip(few, many, strict=True)]


def test_a_packed_layer_launches_as_few_kernels_as_a_stock_layer(data, monkeypatch):
    """At small batches a step is bound by launches. Dropout is on throughout."""
    monkeypatch.setattr(packed_attention, "has_kernel", lambda *_: True)
    flags = ["--dropout", "0.1", "--attention-dropout", "0.1"]
    flags += ["--max-positions", "64"]
    ours, stock = (
        per_layer(lambda n, more=more: fairseq_kernels(data, n, *flags, *more))
        for more in (["--packed"], [])
    )
    theirs = per_layer(hugging_face_kernels)
    assert ours[0] <= theirs[0]
    assert sum(ours) <= 0.85 * sum(theirs)
    assert sum(ours) <= 0.55 * sum(stock)
