"""One training step and its gradients."""

import torch
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.optim.fp16_optimizer import FP16Optimizer

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.large_batch.gradient_cache import cut
from helpers.training import toy_model

SIZE = 23


FLAGS = ["--activation-fn", "tanh", "--contrastive-batch", str(SIZE)]


OFF = ["--dropout", "0", "--attention-dropout", "0", "--pooler-dropout", "0"]


ON = ["--dropout", "0.2", "--attention-dropout", "0.1", "--pooler-dropout", "0.3"]


def build(data, chunk, *flags, dtype=torch.float64):
    toy = toy_model([data, *FLAGS, *flags])
    toy.task.cfg.chunk = chunk  # not by --chunk: all sizes share the cached settings
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in toy.model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
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


def assert_same(found, wanted, within=1e-9):
    assert found[0].keys() == wanted[0].keys()
    largest = max(gradient.abs().max() for gradient in wanted[0].values())
    assert largest > 0
    for name, gradient in wanted[0].items():
        error = (found[0][name] - gradient).abs().max()
        assert error <= within * max(gradient.abs().max(), 1e-3 * largest), name
    torch.testing.assert_close(found[1], wanted[1], rtol=within, atol=0)
    assert found[2] == wanted[2]
    assert found[3].keys() == wanted[3].keys()
    for key, value in wanted[3].items():
        torch.testing.assert_close(
            torch.as_tensor(found[3][key]).double(), torch.as_tensor(value).double()
        )


class HalfOptimizer(FP16Optimizer):
    """fairseq's loss scaling, without the parts that need a GPU."""

    def __init__(self, scale):
        self.scaler = DynamicLossScaler(init_scale=scale)


def weights_of(folder):
    return load_checkpoint(folder / "checkpoint_last.pt")["model"]


def stock_criterion(toy):
    """Return the stock criterion for the same task and settings."""
    return SentencePredictionCriterion(toy.cfg.criterion, toy.task)
