"""What is changed in fairseq's trainer, its options and its optimizers."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from fairseq import options
from fairseq.optim import AMPOptimizer, FairseqOptimizer
from fairseq.optim.adam import Adam
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.trainer import Trainer

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError
from fairseq_scl.optim.fused_adam import FusedAdam
from helpers.checkpoints import weights
from helpers.refusals import refused
from helpers.training import (
    command_line,
    toy_model,
    train_fast,
    trained_checkpoint,
)

DATA = {"sizes": {"train": 9, "valid": 30, "test": 6}}


def test_a_function_is_wrapped_once_by_each_wrapper():
    owner = SimpleNamespace(count=lambda: 0)

    def add_one(original):
        return original() + 1

    def add_ten(original):
        return original() + 10

    for wrapper in (add_one, add_ten, add_one, add_ten):
        wrap(owner, "count", wrapper)
    assert owner.count() == 11


# --amp


class Wrapped(FairseqOptimizer):
    """fairseq's wrapper around an optimizer of PyTorch."""

    def __init__(self, kind, parameters):
        super().__init__(None)
        self._optimizer = kind(parameters, lr=0.01, eps=1e-6)


def amp_optimizer(kind, parameters, scale):
    common = {"fp16_init_scale": scale, "amp_scale_window": None, "min_loss_scale": 1}
    cfg = SimpleNamespace(common=SimpleNamespace(**common), optimizer=None)
    return AMPOptimizer(cfg, parameters, Wrapped(kind, parameters))


@pytest.fixture
def scaler_on_cpus(monkeypatch):
    scaler = functools.partial(torch.amp.GradScaler, "cpu")
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", scaler)


def one_update(optimizer, weight, factor, clip):
    """Take fairseq's steps of an update; return what Adam averaged and the norm."""
    optimizer.backward((weight * torch.tensor([1.0, 2.0, 2.0]) * factor).sum())
    optimizer.multiply_grads(0.5)
    norm = optimizer.clip_grad_norm(clip)
    optimizer.step()
    return optimizer.optimizer.state[weight], norm


@pytest.mark.usefixtures("scaler_on_cpus")
@pytest.mark.parametrize("kind", [Adam, FusedAdam])
@pytest.mark.parametrize("clip", [0.0, 0.25])
@pytest.mark.parametrize("scale", [2.0**7, 2.0**16])
def test_amp_gives_the_optimizer_the_gradients_of_float32(kind, clip, scale):
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    scaled = amp_optimizer(kind, [weights[0]], scale)
    state, norm = one_update(scaled, weights[0], 1.0, clip)
    plain, plain_norm = one_update(Wrapped(kind, [weights[1]]), weights[1], 1.0, clip)
    size = 0.1 * (clip / 1.5 if clip else 1.0) / 2  # 1 - β₁, clipping, multiply_grads
    expected = size * torch.tensor([1.0, 2.0, 2.0])
    torch.testing.assert_close(state["exp_avg"], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(state["exp_avg"], plain["exp_avg"])
    torch.testing.assert_close(state["exp_avg_sq"], plain["exp_avg_sq"])
    torch.testing.assert_close(norm, plain_norm)
    assert float(norm) == pytest.approx(1.5)
    torch.testing.assert_close(weights[0], weights[1])
    assert scaled.scaler.get_scale() == scale


@pytest.mark.usefixtures("scaler_on_cpus")
def test_amp_skips_an_update_that_overflows():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = amp_optimizer(FusedAdam, [weight], 2.0**7)
    state, norm = one_update(optimizer, weight, float("inf"), 0.0)
    assert not torch.isfinite(norm)
    assert not state
    assert torch.equal(weight, torch.ones(3))
    assert optimizer.scaler.get_scale() == 2.0**6


# --fp16


def test_overflows_in_a_row_at_the_lowest_loss_scale_end_training():
    scaler = DynamicLossScaler(init_scale=4.0, threshold=1.0)
    for scale in (2.0, *[1.0] * 50):  # the 49 at the threshold end with an update
        with pytest.raises(OverflowError):
            scaler.check_overflow(math.inf)
        assert scaler.loss_scale == scale
    scaler.check_overflow(1.0)
    for _ in range(49):
        with pytest.raises(OverflowError):
            scaler.check_overflow(math.nan)
    with pytest.raises(FloatingPointError, match="50 overflows in a row"):
        scaler.check_overflow(math.nan)


# --bf16


def parsed(data, *flags):
    arguments = command_line([data, *flags])
    return options.parse_args_and_arch(options.get_training_parser(), arguments)


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16"])
def test_bf16_asks_for_no_tpu(data, flag):
    assert (parsed(data, flag).bf16, parsed(data, flag).tpu) == (True, False)
    assert parsed(data, flag, "--tpu").tpu


@pytest.mark.parametrize("second", ["--bf16", "--memory-efficient-bf16"])
@pytest.mark.parametrize("first", ["--fp16", "--memory-efficient-fp16"])
def test_two_kinds_of_half_precision_are_refused(data, first, second):
    with pytest.raises(InputError, match=f"{first} .* {second}"):
        parsed(data, second, first)


# Names that are left out


@pytest.mark.parametrize("task", ["sentence_prediction", "sentence_prediction_scl"])
@pytest.mark.parametrize(
    "parser", [options.get_training_parser, options.get_validation_parser]
)
def test_a_missing_criterion_is_named(data, task, parser):
    with refused("--criterion is 'cross_entropy'", f"--task {task}"):
        options.parse_args_and_arch(parser(), [str(data), "--task", task])


def test_validation_without_a_task_is_refused_and_shows_its_help(data, capsys):
    parser = options.get_validation_parser()
    with refused("--task is missing: give --task and --criterion as in training"):
        options.parse_args_and_arch(parser, [str(data), "--path", "last.pt"])
    with pytest.raises(SystemExit, match="0"):
        options.parse_args_and_arch(parser, ["--help"])
    assert "--valid-subset" in capsys.readouterr().out


# Validating the training set


@pytest.mark.parametrize("task", ["sentence_prediction", "sentence_prediction_scl"])
def test_validating_the_training_set_uses_up_no_epoch(data, task):
    toy = toy_model([data, "--task", task])
    trainer = Trainer(toy.cfg, toy.task, toy.model, toy.criterion)
    toy.task.load_dataset("valid")
    training = trainer.get_train_iterator(1)
    for _ in range(2):
        batches = trainer.get_valid_iterator("train").next_epoch_itr(shuffle=False)
        assert sum(len(batch["id"]) for batch in batches) == 9
        assert training.next_epoch_idx == 1
    assert trainer.get_train_iterator(1, load_dataset=False) is training
    kept = trainer.get_valid_iterator("valid")
    assert trainer.get_valid_iterator("valid") is kept


def test_training_with_validation_on_the_training_set_updates(data, tmp_path):
    flags = ["--valid-subset", "valid,train", "--max-epoch", "1"]
    done = train_fast([data, "--save-dir", tmp_path, *flags])
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 3


# The moving average of the weights


def test_a_moving_average_starts_from_an_encoder_and_resumes(data, tmp_path):
    encoder = trained_checkpoint(data, tmp_path / "encoder", "--max-update", "2")
    flags = ["--finetune-from-model", encoder, "--store-ema", "--ema-fp32"]
    for updates in ("1", "2"):  # with this decay it stays where it starts
        more = [*flags, "--ema-decay", "1", "--max-update", updates]
        last = load_checkpoint(trained_checkpoint(data, tmp_path / "out", *more))
        assert last["optimizer_history"][-1]["num_updates"] == int(updates)
        for name, tensor in weights(encoder).items():
            for average in ("ema", "ema_fp32_params"):
                found = last["extra_state"][average][name]
                assert torch.equal(found, tensor) or name.endswith(".version"), name


# Dummy batches


def test_training_and_validation_have_their_own_dummy_batches(data, monkeypatch):
    toy = toy_model([data])
    toy.task.load_dataset("train")
    toy.task.load_dataset("valid")
    trainer = Trainer(toy.cfg, toy.task, toy.model, toy.criterion)
    training = trainer.get_train_iterator(1, load_dataset=False).first_batch
    validation = trainer.get_valid_iterator("valid").first_batch
    seen = []
    for name in ("train_step", "valid_step"):
        step = getattr(toy.task, name)

        def spy(*args, step=step, **kwargs):
            sample = kwargs.get("sample", args[0] if args else None)
            seen.append(sample["net_input"]["src_tokens"])
            return step(*args, **kwargs)

        monkeypatch.setattr(toy.task, name, spy)
    for _ in range(2):
        trainer.train_step([{}])
        trainer.valid_step({})
    trainer.get_valid_iterator("valid")
    trainer.train_step([{}])
    assert len(seen) == 5
    for number, tokens in enumerate(seen):
        batch = validation if number in (1, 3) else training
        assert torch.equal(tokens, batch["net_input"]["src_tokens"])
