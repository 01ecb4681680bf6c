"""CUDA graphs without a GPU: a stand-in replays a function by running it again."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F

from fairseq_scl.models.features import classification_features
from fairseq_scl.packing import graphs, layers
from fairseq_scl.packing.encoder import pack
from helpers import packed
from helpers.gradients import gradients
from helpers.packed import HEAD, LENGTH_CASES, assert_same, batch, results


def attend(query, key, value, heads, layout, p, noise):
    """Attend within each sentence, given only what a captured pass may read."""
    starts = layout.starts.tolist()
    one_each = len(query) < len(key)
    outputs = []
    for number, (first, end) in enumerate(itertools.pairwise(starts)):
        rows = query[number : number + 1] if one_each else query[first:end]
        parts = (rows, key[first:end], value[first:end])
        by_head = [part.view(len(part), heads, -1).transpose(0, 1) for part in parts]
        output = F.scaled_dot_product_attention(*by_head)
        outputs.append(output.transpose(0, 1).flatten(1))
    return torch.cat(outputs)


@pytest.fixture
def captures(monkeypatch):
    """Let passes on a CPU be captured; return the names of captured functions."""
    names = []

    def capture(function, pool):
        names.append(function.__name__)
        function()
        return function

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "has_kernel", lambda *_: True)
    monkeypatch.setattr(layers, "attention", attend)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return names


def test_replayed_passes_equal_packed_ones(data, captures):
    """The rows that are left over have no influence, whatever they contain."""
    model = packed.build(data, dtype=torch.float64)
    graphed = pack(copy.deepcopy(model), cuda_graphs=True)
    pack(model)
    for seed in range(3):
        for case in LENGTH_CASES.values():
            tokens = batch(case, seed)
            assert_same(results(model, tokens), results(graphed, tokens), 1e-10, 1e-10)
    shapes = {(len(case), sum(case) // 64) for case in LENGTH_CASES.values()}
    assert captures == ["_forward", "_backward"] * len(shapes)


def test_gradients_add_up_over_batches_and_with_other_passes(data, captures):
    model = packed.build(data, dtype=torch.float64)
    graphed = pack(copy.deepcopy(model), cuda_graphs=True)
    pack(model)
    for one in (model, graphed):
        one.zero_grad()
        for case in ("ragged", "longest first", "ragged", "ragged", "single token"):
            logits = one(batch(LENGTH_CASES[case]), classification_head_name=HEAD)[0]
            logits.square().sum().backward()
    assert len(captures) == 2
    torch.testing.assert_close(gradients(model), gradients(graphed))


def test_two_forward_passes_before_a_backward_pass_are_an_error(data, captures):
    model = pack(packed.build(data), cuda_graphs=True)
    tokens = batch(LENGTH_CASES["ragged"])
    for _ in range(2):
        results(model, tokens)
    first = model(tokens, classification_head_name=HEAD)[0]
    model(tokens, classification_head_name=HEAD)
    with pytest.raises(RuntimeError, match="--cuda-graphs needs the backward pass"):
        first.sum().backward()


def test_passes_are_captured_again_when_the_weights_moved(data, captures):
    model = pack(packed.build(data), cuda_graphs=True)
    tokens = batch(LENGTH_CASES["ragged"])
    for _ in range(3):
        results(model, tokens)
    model.double()
    plain = copy.deepcopy(model)
    plain.cuda_graphs = None
    for _ in range(3):
        assert_same(results(plain, tokens), results(model, tokens), 1e-10, 1e-10)
    assert len(captures) == 4


def test_evaluation_hooks_and_frozen_encoders_are_not_captured(data, captures):
    model = pack(packed.build(data), cuda_graphs=True)
    tokens = batch(LENGTH_CASES["ragged"])
    model.eval()
    for _ in range(3):
        model(tokens, classification_head_name=HEAD)
    seen = []
    handle = model.encoder.sentence_encoder.embed_tokens.register_forward_hook(
        lambda *_: seen.append(1)
    )
    model.train()
    for _ in range(3):
        results(model, tokens)
    handle.remove()
    assert len(seen) == 3
    model.encoder.requires_grad_(False)
    for _ in range(3):
        results(model, tokens)
    assert captures == []


def test_copies_of_a_model_have_no_graphs(data, captures):
    model = pack(packed.build(data), cuda_graphs=True)
    for _ in range(2):
        results(model, batch(LENGTH_CASES["ragged"]))
    assert model.cuda_graphs._passes
    for one in (
        copy.deepcopy(model).cuda_graphs,
        pickle.loads(pickle.dumps(model.cuda_graphs)),
    ):
        assert not one._passes


def test_a_loss_that_reads_other_states_gets_a_warning(data, captures, caplog):
    model = pack(packed.build(data), cuda_graphs=True)
    for _ in range(3):
        with classification_features(model.train(), HEAD, "mean"):
            model(batch(LENGTH_CASES["ragged"]), classification_head_name=HEAD)
    assert captures == []
    assert caplog.text.count("--cuda-graphs has no effect") == 1


def test_without_the_kernel_passes_are_as_before(data, caplog):
    model = pack(packed.build(data), cuda_graphs=True)
    for _ in range(3):
        results(model, batch(LENGTH_CASES["ragged"]))
    assert caplog.text.count("--cuda-graphs has no effect") == 1
