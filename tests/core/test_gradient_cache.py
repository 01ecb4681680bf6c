"""Chunks give the gradients of the whole batch, dropout included."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from fairseq_scl.errors import InputError
from fairseq_scl.large_batch import gradient_cache
from fairseq_scl.large_batch.gradient_cache import cut
from fairseq_scl.packing.encoder import LENGTHS
from helpers.checkpoints import assert_same_weights
from helpers.gradients import (
    OFF,
    ON,
    SIZE,
    HalfOptimizer,
    PlainOptimizer,
    assert_chunks_are_the_batch,
    assert_same,
    build,
    gradients,
    step,
)
from helpers.training import train_fast

DATA = {"sizes": {"train": SIZE, "valid": 6, "test": 6}}

# Not gelu, which fairseq computes in float32 whatever the model is.
SETTINGS = [
    *["--scl-reduction mean", "--scl-reduction paper", "--scl-features pooled"],
    *["--scl-lambda 0", "--scl-lambda 1", "--scl-lambda 1 --scl-features pooled"],
    *["--packed", "--packed --scl-features pooled", "--encoder-layerdrop 0.5"],
    *["--scl-features mean", "--packed --scl-features mean"],
    "--packed --arch roberta_bert --head-pooling mean --scl-features mean",
]


@pytest.mark.parametrize("flags", SETTINGS)
def test_with_dropout_it_is_the_whole_batch_with_the_same_masks(data, flags):
    toy = build(data, 4, *ON, *flags.split())
    step(toy)
    state = torch.get_rng_state()
    assert_chunks_are_the_batch(toy)
    assert torch.equal(torch.get_rng_state(), state)  # as after one pass


@pytest.mark.parametrize("chunk", [1, 5, 22])
@pytest.mark.parametrize("flags", ["", "--packed --scl-reduction paper"])
def test_without_dropout_it_is_the_plain_batch(data, flags, chunk):
    toy = build(data, chunk, *OFF, *flags.split())
    # CE goes through float32 in the stock criterion.
    assert_same(step(toy), step(build(data, 0, *OFF, *flags.split())), within=1e-6)


def test_dropout_matters_in_these_tests(data):
    toy = build(data, 4, *ON)
    with_dropout = step(toy)[1]
    assert abs(with_dropout - step(build(data, 4, *OFF))[1]) > 1e-3 * with_dropout


@pytest.mark.parametrize("chunk", [SIZE, SIZE + 1, 1000])
def test_a_chunk_as_large_as_the_batch_is_one_pass(data, chunk, monkeypatch):
    monkeypatch.setattr(gradient_cache, "cached_step", None)
    found = step(build(data, chunk, *ON))
    assert_same(found, step(build(data, 0, *ON)), within=0)


def test_each_example_is_computed_once_with_a_graph_and_at_most_twice(data):
    toy = build(data, 4, *OFF)
    seen = {True: 0, False: 0}
    head = toy.model.classification_heads["sentence_classification_head"]

    def count(_, inputs):
        seen[torch.is_grad_enabled()] += len(inputs[0])

    head.register_forward_pre_hook(count)
    step(toy)
    last = cut(toy.batch(SIZE)["net_input"], 4).sizes[-1]
    assert seen == {True: SIZE, False: SIZE - last}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("size", [1, 4, 12, 22])
def test_cutting_keeps_every_token_and_trims_padding(data, size, packed):
    toy = build(data, size, *(["--packed"] if packed else []))
    net_input = toy.batch(SIZE)["net_input"]
    chunks = cut(net_input, size)
    assert 1 < len(chunks.inputs) <= -(-SIZE // size)
    lengths = net_input["src_lengths"].tolist()
    budget = sum(lengths) / -(-SIZE // size) + max(lengths)
    row = 0
    for inputs, count in zip(chunks.inputs, chunks.sizes, strict=True):
        tokens = inputs["src_tokens"]
        assert len(tokens) == len(inputs["src_lengths"]) == count
        assert tokens.shape[1] == inputs["src_lengths"].max()
        assert inputs["src_lengths"].sum() <= budget
        if packed:
            assert inputs[LENGTHS] == inputs["src_lengths"].tolist()
        for sentence, length in zip(tokens, inputs["src_lengths"], strict=True):
            whole = net_input["src_tokens"][chunks.order[row]]
            assert torch.equal(sentence[:length], whole[:length])
            row += 1
    assert row == SIZE
    values = torch.arange(SIZE)
    assert torch.equal(chunks.join(chunks.split(values)), values)


def test_without_known_lengths_nothing_is_trimmed_wrongly(data):
    """A batch for --packed that is not padded on the right carries no lengths."""
    net_input = build(data, 4, "--packed").batch(SIZE)["net_input"]
    chunks = cut({**net_input, LENGTHS: None}, 4)
    assert all(inputs[LENGTHS] is None for inputs in chunks.inputs)
    assert sum(chunks.sizes) == SIZE


def test_the_loss_is_scaled_once(data):
    toy = build(data, 4, *ON)
    plain, scaled = step(toy), step(toy, HalfOptimizer(128.0))
    wanted = {name: 128 * gradient for name, gradient in plain[0].items()}
    torch.testing.assert_close(scaled[0], wanted)
    assert scaled[1] == plain[1]


def test_small_gradients_survive_half_precision(data):
    """What is carried over is not rounded before the loss is scaled."""
    toy = build(data, 4, *OFF, dtype=torch.float16)
    scale = 2.0**-10  # of the loss: gradients of the features underflow in float16
    original = toy.criterion.loss_of_outputs

    def small_loss(model, sample, logits, features):
        assert logits.dtype == features.dtype == torch.float32
        loss, size, log = original(model, sample, logits, features)
        return loss * scale**2, size, log

    exact = step(build(data, 4, *OFF))
    toy.criterion.loss_of_outputs = small_loss
    found = step(toy, HalfOptimizer(1 / scale**2))
    for name, gradient in exact[0].items():
        assert found[0][name].dtype == torch.float16
        error = (found[0][name].double() - gradient).norm()
        # Key biases have no gradient but rounding.
        if "k_proj.bias" not in name:
            assert error <= 0.03 * gradient.norm() + 1e-3, name


def test_autocast_gives_every_weight_its_gradient(data, monkeypatch):
    """Weights that a pass without graph converted must not be used with one."""
    exact = step(build(data, 4, *ON, dtype=torch.float32))[0]
    half = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr(gradient_cache, "_autocast", lambda _: half)
    found = step(build(data, 4, *ON, dtype=torch.float32))[0]
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        if "k_proj.bias" not in name:
            error = (found[name] - gradient).norm()
            assert error <= 0.1 * gradient.norm(), name


def test_hooks_are_removed(data):
    toy = build(data, 4, *ON)
    step(toy)
    assert not any(module._forward_hooks for module in toy.model.modules())
    assert not any(module._forward_pre_hooks for module in toy.model.modules())


def test_gradients_are_exchanged_in_one_backward_pass(data):
    toy = build(data, 4, *ON)
    exchanged, waiting = [], []

    @contextlib.contextmanager
    def no_sync():
        waiting.append(True)
        yield
        waiting.pop()

    optimizer = SimpleNamespace(
        backward=lambda loss: (exchanged.append(not waiting), loss.backward())
    )
    toy.model.no_sync = no_sync
    step(toy, optimizer)
    count = len(cut(toy.batch(SIZE)["net_input"], 4).sizes)
    assert exchanged == [False] * count + [True]  # the loss, then each chunk


def test_a_filled_in_batch_leaves_no_gradient(data):
    toy = build(data, 4, *ON)
    toy.task.train_step(
        toy.batch(SIZE), toy.model, toy.criterion, PlainOptimizer(), 0, ignore_grad=True
    )
    assert all((gradient == 0).all() for gradient in gradients(toy.model).values())


@pytest.mark.parametrize(
    "flags",
    [
        [*["--update-freq", "2", "--contrastive-batch", "9"], "--clip-norm", "0.1"],
        ["--fp16", "--memory-efficient-fp16", "--fp16-init-scale", "16"],
    ],
    ids=" ".join,
)
def test_training_in_chunks_is_training(data, tmp_path, flags):
    common = [data, *OFF, "--max-update", "3", "--max-epoch", "9", "--batch-size", "2"]
    common += ["--contrastive-batch", str(SIZE), *flags]
    for name, chunk in (("whole", "0"), ("chunks", "4")):
        done = train_fast([*common, "--save-dir", tmp_path / name, "--chunk", chunk])
        assert done.returncode == 0, done.stderr[-3000:]
    assert f'"bsz": "{18 if "9" in flags else SIZE}"' in done.stdout + done.stderr
    files = (tmp_path / name / "checkpoint_last.pt" for name in ("whole", "chunks"))
    within = 0.01 if "--fp16" in flags else 2e-4
    assert_same_weights(*files, atol=within, rtol=1e-3)


def test_max_tokens_is_refused(data):
    toy = build(data, 4)
    toy.task.load_dataset("train")
    with pytest.raises(InputError, match="--max-tokens is 400: it cannot be combined"):
        toy.task.get_batch_iterator(dataset=toy.task.dataset("train"), max_tokens=400)


def test_a_model_that_normalizes_over_the_batch_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    reason = gradient_cache.unsupported(model)
    assert reason == "BatchNorm1d (1), which depends on the whole batch"


def test_only_training_batches_have_the_contrastive_size(data):
    toy = build(data, 0)
    for split, wanted in (("train", [SIZE]), ("valid", [3, 3])):
        toy.task.load_dataset(split)
        batches = toy.task.get_batch_iterator(
            dataset=toy.task.dataset(split), max_sentences=3
        ).next_epoch_itr(shuffle=False)
        assert [len(batch["target"]) for batch in batches] == wanted
