"""The packed encoder gives what the stock encoder gives, from real tokens only."""

import copy
import functools
import gc
import weakref

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from fairseq_scl.errors import InputError
from fairseq_scl.models.features import EXTRA_KEY, FEATURES, classification_features
from fairseq_scl.models.pooling import POOLINGS
from fairseq_scl.packing import encoder as packed
from fairseq_scl.packing import layers
from fairseq_scl.packing.attention import attention
from fairseq_scl.packing.encoder import LENGTHS, is_packed, pack, right_padded_lengths
from fairseq_scl.packing.layout import CpuDropout, Layout
from fairseq_scl.tasks import sentence_prediction_scl
from helpers.checkpoints import assert_same_weights
from helpers.packed import (
    HEAD,
    LENGTH_CASES,
    LONGEST,
    PAD,
    assert_packing_keeps,
    batch,
    build,
    results,
)
from helpers.refusals import refused
from helpers.training import toy_model, trained_checkpoint

lengths = st.lists(st.integers(1, LONGEST), min_size=1, max_size=8)


@pytest.mark.parametrize("case", LENGTH_CASES)
@pytest.mark.parametrize("arch", ["roberta", "roberta_bert"])
def test_logits_and_gradients_are_those_of_the_stock_encoder(data, arch, case):
    assert_packing_keeps(build(data, "--arch", arch), LENGTH_CASES[case])


@pytest.mark.parametrize("case", LENGTH_CASES)
def test_in_double_precision_they_agree_to_ten_digits(data, case):
    # Not gelu, which fairseq computes in float32 whatever the model is.
    model = build(data, "--activation-fn", "tanh", dtype=torch.float64)
    assert_packing_keeps(model, LENGTH_CASES[case], (1e-10, 1e-10))


@pytest.mark.parametrize("case", LENGTH_CASES)
def test_a_head_on_the_mean_gets_that_of_the_stock_encoder(data, case):
    flags = ["--arch", "roberta_bert", "--head-pooling", "mean"]
    assert_packing_keeps(build(data, *flags), LENGTH_CASES[case])


@hypothesis.given(lengths=lengths)
@hypothesis.settings(max_examples=10)
def test_any_lengths_agree(data, lengths):
    model = build(data, dtype=torch.float64)
    assert_packing_keeps(model, lengths, (1e-6, 1e-6))


@pytest.mark.parametrize("case", LENGTH_CASES)
def test_attention_on_padded_rows_gives_the_same(data, case, monkeypatch):
    """What runs on a GPU in single precision, and under autocast."""
    monkeypatch.setattr(layers, "CpuDropout", lambda: None)
    assert_packing_keeps(build(data), LENGTH_CASES[case])


def test_lengths_from_the_batch_are_used_instead_of_counting(data, monkeypatch):
    monkeypatch.setattr(packed, "right_padded_lengths", None)
    case = LENGTH_CASES["ragged"]
    assert_packing_keeps(build(data), case, **{LENGTHS: case})


def test_an_output_follows_its_sentence_not_its_place(data):
    model, tokens = pack(build(data)), batch(LENGTH_CASES["ragged"])
    order = torch.tensor([3, 7, 0, 1, 6, 5, 2, 4])
    logits = results(model, tokens)[0]
    torch.testing.assert_close(results(model, tokens[order])[0], logits[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_the_stock_encoder(data, dtype):
    model, tokens = build(data), batch(LENGTH_CASES["ragged"])
    exact, _ = results(model, tokens)
    stock, _ = results(copy.deepcopy(model).to(dtype), tokens)
    logits, gradients = results(pack(copy.deepcopy(model).to(dtype)), tokens)
    assert logits.dtype == dtype
    assert all(g.dtype == dtype and g.isfinite().all() for g in gradients.values())
    error = (logits.float() - exact).abs().max()
    assert error <= 2 * (stock.float() - exact).abs().max() + 1e-3


def test_autocast_works(data):
    model, tokens = pack(build(data)), batch(LENGTH_CASES["ragged"])
    exact, _ = results(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = results(model, tokens)
    assert all(g.dtype == torch.float32 for g in gradients.values())
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "activation_dropout"])
def test_everything_dropped_is_exactly_the_stock_encoder(data, kind):
    assert_packing_keeps(build(data, **{kind: 1.0}), LENGTH_CASES["ragged"])


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "activation_dropout"])
def test_dropout_has_the_stock_encoders_mean_and_spread(data, kind):
    model = build(data, **{kind: 0.3})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    copies = 1000
    tokens = batch([4, 2]).repeat(copies, 1)
    with torch.no_grad():
        drawn = [
            m(tokens, classification_head_name=HEAD)[0].unflatten(0, (copies, 2))
            for m in (model, pack(copy.deepcopy(model)))
        ]
    spread = [d.std(0) for d in drawn]
    error = ((spread[0] ** 2 + spread[1] ** 2) / copies).sqrt()
    assert ((drawn[0].mean(0) - drawn[1].mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(spread[0], spread[1], rtol=0.15, atol=0)


def test_dropout_is_repeated_by_the_seed_and_by_a_restored_state(data):
    model = pack(build(data, dropout=0.1, attention_dropout=0.1))
    tokens = batch(LENGTH_CASES["ragged"])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = results(model, tokens), results(model, tokens)
    torch.manual_seed(5)
    again = results(model, tokens)
    torch.set_rng_state(state)
    restored = results(model, tokens)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[0], restored[0])
    assert all(torch.equal(g, again[1][name]) for name, g in first[1].items())


def test_evaluation_draws_no_random_numbers(data):
    model = pack(build(data, dropout=0.5, attention_dropout=0.5)).eval()
    tokens = batch(LENGTH_CASES["ragged"])
    state = torch.get_rng_state()
    assert torch.equal(results(model, tokens)[0], results(model, tokens)[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_layerdrop_leaves_out_the_layers_that_stock_leaves_out(data):
    model = build(data, "--encoder-layers", "5", "--encoder-layerdrop", "0.5")
    other, tokens = pack(copy.deepcopy(model)), batch(LENGTH_CASES["ragged"])
    for seed in range(6):
        pairs = []
        for one in (model, other):
            one.eval()  # counts the seed's draws of layers, no others
            one.encoder.sentence_encoder.layers.train()
            torch.manual_seed(seed)
            pairs.append(one(tokens, classification_head_name=HEAD)[0])
        torch.testing.assert_close(*pairs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_masks_have_the_probability_and_the_scale(p):
    torch.manual_seed(0)
    size = 400_001
    mask = CpuDropout().mask(size, p, torch.float32)
    assert len(mask) == size
    dropped = round(p * 65536) / 65536
    kept = mask[mask > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - dropped)))
    error = (p * (1 - p) / size) ** 0.5
    assert abs((mask == 0).float().mean() - p) <= 4 * error + 1e-5
    zero = (mask == 0).double() - p
    for lag in (1, 2, 3, 4, 64):  # four entries come from one random number
        together = (zero[lag:] * zero[:-lag]).mean()
        assert abs(together) <= 4 * p * (1 - p) / size**0.5 + 1e-9


def test_everything_is_dropped_with_probability_one():
    assert not CpuDropout().mask(100, 1.0, torch.float32).any()


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_the_backward_of_attention_is_its_derivative(one_each, p):
    layout = Layout.of([2, 3, 1, 3], 5, torch.device("cpu"))
    torch.manual_seed(0)
    rows = [4 if one_each else 9, 9, 9]
    inputs = [torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in rows]

    def function(query, key, value):
        torch.manual_seed(1)
        return attention(query, key, value, 3, layout, p, CpuDropout())

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("one_each", [False, True])
def test_ways_of_attention_agree(one_each):
    case = LENGTH_CASES["ragged"]
    layout = Layout.of(case, max(case), torch.device("cpu"))
    torch.manual_seed(0)
    total = sum(case)
    query = torch.randn(len(case) if one_each else total, 8)
    key, value = torch.randn(total, 8), torch.randn(total, 8)
    arguments = (query, key, value, 2, layout, 0.0)
    grouped = attention(*arguments, CpuDropout())
    torch.testing.assert_close(grouped, attention(*arguments, None))


def test_lengths_are_counted_only_where_padding_is_at_the_right():
    assert right_padded_lengths(batch([3, 5, 1]), PAD) == [3, 5, 1]
    assert right_padded_lengths(torch.tensor([[0, PAD, 5], [0, 5, 6]]), PAD) is None
    assert right_padded_lengths(torch.tensor([[PAD, 0, 5], [0, 5, 6]]), PAD) is None
    assert right_padded_lengths(torch.tensor([[PAD, PAD], [0, 5]]), PAD) is None


def test_padding_elsewhere_and_calls_without_a_head_use_the_stock_pass(data):
    model, tokens = build(data).eval(), batch(LENGTH_CASES["ragged"])
    other = pack(copy.deepcopy(model))
    inside = tokens.clone()
    inside[5, 3] = PAD
    for arguments in (
        {"src_tokens": inside, "classification_head_name": HEAD},
        {"src_tokens": tokens, "features_only": True},
        {"src_tokens": tokens},
    ):
        assert torch.equal(model(**arguments)[0], other(**arguments)[0])
    hidden = [
        m(tokens, return_all_hiddens=True, classification_head_name=HEAD)[1]
        for m in (model, other)
    ]
    assert len(hidden[0]["inner_states"]) == len(hidden[1]["inner_states"]) == 3


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_hook_gets_the_stock_features(data, pooling, kind):
    flags = ["--arch", "roberta_bert", "--head-pooling", pooling]
    model, tokens = build(data, *flags), batch(LENGTH_CASES["ragged"])
    found = []
    for one in (model, pack(copy.deepcopy(model))):
        with classification_features(one, HEAD, kind):
            found.append(one(tokens, classification_head_name=HEAD)[1][EXTRA_KEY])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_packing_twice_and_copying_keep_the_model_whole(data):
    stock, tokens = build(data), batch(LENGTH_CASES["ragged"])
    model = pack(copy.deepcopy(stock))
    kind = type(model)
    assert type(pack(model)) is kind
    assert model.state_dict().keys() == stock.state_dict().keys()
    other = copy.deepcopy(model)
    assert is_packed(other)
    with torch.no_grad():
        other.classification_heads[HEAD].out_proj.bias += 1
    expected = model(tokens, classification_head_name=HEAD)[0] + 1
    logits = other(tokens, classification_head_name=HEAD)[0]
    torch.testing.assert_close(logits, expected)
    assert not is_packed(stock)


def test_a_packed_model_is_freed_with_its_last_reference(data):
    model = build(data)
    gc.collect()  # Hydra leaves frames behind that hold the model until then
    gc.disable()
    try:
        pack(model)
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--quant-noise-pq", "0.1"], "--quant-noise-pq"),
        (["--quant-noise-scalar", "0.1"], "--quant-noise-scalar"),
        (["--encoder-normalize-before"], "--encoder-normalize-before"),
        (["--arch", "roberta_prenorm"], "--encoder-normalize-before"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_flag(data, flags, named):
    with refused(f"--packed cannot be combined with {named}"):
        pack(build(data, *flags))


def test_activation_checkpointing_and_wrapped_layers_are_refused(data):
    model = build(data)
    model.args.checkpoint_activations = True
    with pytest.raises(InputError, match="--checkpoint-activations"):
        pack(model)
    model = build(data)
    layer = model.encoder.sentence_encoder.layers[0]
    layer.forward = functools.partial(layer.forward)
    with pytest.raises(InputError, match="layers that are not fairseq's own"):
        pack(model)


def test_another_kind_of_model_is_refused():
    with pytest.raises(InputError, match="a Linear, only with RoBERTa"):
        pack(torch.nn.Linear(1, 1))


def test_the_flag_packs_the_model_and_counts_in_the_batch(data, monkeypatch):
    monkeypatch.setattr(sentence_prediction_scl, "keep_memory", lambda: True)
    toy = toy_model([data, "--packed"])
    assert is_packed(toy.model)
    sample = toy.batch()
    tokens = sample["net_input"]["src_tokens"]
    assert sample["net_input"][LENGTHS] == tokens.ne(PAD).sum(1).tolist()
    plain = toy_model([data])
    assert not is_packed(plain.model)
    assert LENGTHS not in plain.batch()["net_input"]
    losses = [
        float(t.criterion(t.model.eval(), t.batch())[0].detach()) for t in (toy, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_with_the_flag_ends_at_the_same_weights(data, tmp_path):
    flags = ["--dropout", "0", "--attention-dropout", "0", "--lr", "0.001"]
    packed = trained_checkpoint(data, tmp_path / "packed", *flags, "--packed")
    stock = trained_checkpoint(data, tmp_path / "stock", *flags)
    assert_same_weights(packed, stock, rtol=0, atol=2e-3)
