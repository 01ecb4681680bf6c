"""``--head-pooling mean``: the head reads the mean over the real tokens."""

import pytest
import torch

from fairseq_scl.models.features import EXTRA_KEY, classification_features
from helpers.packed import HEAD, LENGTH_CASES, PAD, batch, build

MEAN = ["--arch", "roberta_bert", "--head-pooling", "mean"]


def slow_means(model, tokens):
    """Average the states of each sentence alone, without padding."""
    rows = []
    for row in tokens:
        states = model(row[row != PAD][None], features_only=True)[0][0]
        rows.append(sum(states) / len(states))
    return torch.stack(rows)


def test_the_head_reads_the_mean_of_the_real_tokens(data):
    model, tokens = build(data, *MEAN), batch(LENGTH_CASES["ragged"])
    head, means = model.classification_heads[HEAD], slow_means(model, tokens)
    logits = model(tokens, classification_head_name=HEAD)[0]
    wanted = head.out_proj(torch.tanh(head.dense(means)))
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    at_start = build(data, "--arch", "roberta_bert")
    other = at_start(tokens, classification_head_name=HEAD)[0]
    assert (logits - other).abs().max() > 0.01


def test_half_precision_averages_in_single_precision(data):
    model = build(data, *MEAN, dtype=torch.float16).eval()
    tokens = batch([30, 20])
    states = model(tokens, features_only=True)[0]
    with classification_features(model, HEAD, "mean"):
        logits, extra = model(tokens, classification_head_name=HEAD)
    wanted = states[0].float().mean(0).half()
    assert logits.dtype == torch.float16
    assert torch.equal(extra[EXTRA_KEY][0].half(), wanted)


def test_the_weights_and_other_outputs_are_those_of_the_stock_model(data):
    tokens = batch(LENGTH_CASES["ragged"])
    mean, stock = build(data, *MEAN), build(data, "--arch", "roberta_bert")
    assert mean.state_dict().keys() == stock.state_dict().keys()
    for arguments in ({}, {"features_only": True}):
        assert torch.equal(mean(tokens, **arguments)[0], stock(tokens, **arguments)[0])


def test_a_head_on_the_mean_refuses_the_states_of_all_tokens(data):
    """As ``RobertaHubInterface.predict`` passes them, which would use the first."""
    model, tokens = build(data, *MEAN), batch(LENGTH_CASES["ragged"])
    states = model(tokens, features_only=True)[0]
    with pytest.raises(ValueError, match="reads the mean over the tokens"):
        model.classification_heads[HEAD](states)
