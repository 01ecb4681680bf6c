"""One training step and its gradients."""

import torch
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.optim.fp16_optimizer import FP16Optimizer

from fairseq_scl.large_batch.gradient_cache import cut
from helpers.training import draw_weights, toy_model

SIZE = 23


FLAGS = ["--activation-fn", "tanh", "--contrastive-batch", str(SIZE)]


OFF = ["--dropout", "0", "--attention-dropout", "0", "--pooler-dropout", "0"]


ON = ["--dropout", "0.2", "--attention-dropout", "0.1", "--pooler-dropout", "0.3"]


def build(data, chunk, *flags, dtype=torch.float64):
    toy = toy_model([data, *FLAGS, *flags])
    toy.task.cfg.chunk = chunk  # not by --chunk: all sizes share the cached settings
    draw_weights(toy.model)
    toy.model.to(dtype).train()
    return toy


class PlainOptimizer:
    """The part of fairseq's optimizer that ``train_step`` uses."""

    def backward(self, loss):
        loss.backward()


def step(toy, optimizer=None, batch=None):
    """Run the task's step; return gradients, loss, sample size and log."""
    toy.model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    loss, size, log = toy.task.train_step(
        batch or toy.batch(SIZE),
        toy.model,
        toy.criterion,
        optimizer or PlainOptimizer(),
        0,
    )
    return gradients(toy.model), loss.detach(), size, log


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def with_graph(toy, chunk):
    """The oracle: the same passes by chunk with the same dropout, but one graph."""
    toy.model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    batch = toy.batch(SIZE)
    chunks = cut(batch["net_input"], chunk)
    parts = [toy.criterion.model_outputs(toy.model, inputs) for inputs in chunks.inputs]
    outputs = [chunks.join(rows) for rows in zip(*parts, strict=True)]
    loss, size, log = toy.criterion.loss_of_outputs(toy.model, batch, *outputs)
    loss.backward()
    return gradients(toy.model), loss.detach(), size, log


def assert_chunks_are_the_batch(toy, within=1e-9):
    """Compare a step in chunks of 4 with the oracle; return its gradients and log.

    The gradients include those of the criterion's own parameters.
    """
    results = []
    for way in (step, lambda toy: with_graph(toy, 4)):
        toy.criterion.zero_grad(set_to_none=True)
        found, *more = way(toy)
        results.append((found | gradients(toy.criterion), *more))
    assert_same(*results, within=within)
    return results[0][0], results[0][3]


def assert_same(found, wanted, within=1e-9):
    assert found[0].keys() == wanted[0].keys()
    largest = max(gradient.abs().max() for gradient in wanted[0].values())
    assert largest > 0
    for name, gradient in wanted[0].items():
        error = (found[0][name] - gradient).abs().max()
        assert error <= within * max(gradient.abs().max(), 1e-3 * largest), name
    torch.testing.assert_close(found[1], wanted[1], rtol=within, atol=0)
    assert found[2] == wanted[2]
    torch.testing.assert_close(found[3], wanted[3], check_dtype=False)


class HalfOptimizer(FP16Optimizer):
    """fairseq's loss scaling, without the parts that need a GPU."""

    def __init__(self, scale):
        self.scaler = DynamicLossScaler(init_scale=scale)


def assert_is_stock(toy, batch):
    """Check that the criterion is the stock one bit for bit, dropout included."""
    found = []
    for criterion in (toy.criterion, stock_criterion(toy)):
        toy.model.train().zero_grad(set_to_none=True)
        torch.manual_seed(3)
        loss, size, log = criterion(toy.model, batch)
        loss.backward()
        state = torch.get_rng_state()
        found.append((loss, size, log, gradients(toy.model), state))
    ours, stock = found
    assert (ours[0].dtype, ours[1]) == (stock[0].dtype, stock[1])
    tensors = {key for key, value in stock[2].items() if torch.is_tensor(value)}
    assert all(torch.equal(ours[2][key], stock[2][key]) for key in tensors)
    assert ours[3].keys() == stock[3].keys()
    assert all(torch.equal(ours[3][name], stock[3][name]) for name in stock[3])
    assert any(gradient.any() for gradient in stock[3].values())
    assert torch.equal(ours[0], stock[0])
    assert torch.equal(ours[4], stock[4])


def stock_criterion(toy):
    """Return the stock criterion for the same task and settings."""
    return SentencePredictionCriterion(toy.cfg.criterion, toy.task)
