"""Models for comparing the packed pass with the stock one."""

import copy

import torch

from fairseq_scl.packing.encoder import pack
from helpers.training import draw_weights, toy_model

PAD, LONGEST = 1, 30
HEAD = "sentence_classification_head"
NO_DROPOUT = {"dropout": 0, "attention-dropout": 0, "activation-dropout": 0}
LENGTH_CASES = {
    "ragged": [5, 3, 9, 3, 1, 12, 5, 2],
    "single token": [1],
    "batch of one": [7],
    "one token and the longest": [1, LONGEST],
    "without padding": [6, 6, 6],
    "longest first": [LONGEST, 4, 3, 1],
}


def build(data, *flags, dtype=torch.float32, **dropout):
    """Build a stock model in training mode."""
    given = {**NO_DROPOUT, **{k.replace("_", "-"): v for k, v in dropout.items()}}
    given_flags = [x for name, p in given.items() for x in (f"--{name}", str(p))]
    model = toy_model([data, *given_flags, *flags]).model
    draw_weights(model)
    return model.to(dtype).train()


def batch(lengths, seed=0):
    torch.manual_seed(seed)
    tokens = torch.randint(4, 20, (len(lengths), max(lengths)))
    tokens[:, 0] = 0
    tokens[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = PAD
    return tokens


def results(model, tokens, **arguments):
    """Return logits and the gradient of each parameter that has one."""
    model.zero_grad(set_to_none=True)
    logits, _ = model(tokens, classification_head_name=HEAD, **arguments)
    factors = torch.arange(1.0, 1 + logits.numel(), device=logits.device)
    (logits * factors.view_as(logits)).sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


def assert_same(first, second, logits_within, gradients_within):
    assert first[0].dtype == second[0].dtype
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=logits_within)
    within = {"rtol": gradients_within, "atol": gradients_within}
    torch.testing.assert_close(first[1], second[1], **within)


def assert_packing_keeps(model, lengths, within=(1e-5, 1e-4), **arguments):
    """Compare a model with its packed copy on sentences of these lengths."""
    tokens = batch(lengths)
    stock = results(model, tokens)
    other = pack(copy.deepcopy(model))
    assert_same(stock, results(other, tokens, **arguments), *within)
