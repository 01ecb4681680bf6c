"""The model hook: right features, from the same pass, and nothing left behind."""

import pytest
import torch
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from torch.nn.parallel import DistributedDataParallel

from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.models.features import EXTRA_KEY, FEATURES, classification_features
from helpers.packed import HEAD, PAD
from helpers.training import toy_model


@pytest.fixture(scope="module")
def toy(data):
    """A model and data, never changed by a test."""
    return toy_model([data])


@pytest.fixture
def model(toy):
    """The model in evaluation mode."""
    return toy.model.eval()


@pytest.fixture
def tokens(toy):
    """A padded batch of eight sentences."""
    tokens = toy.batch()["net_input"]["src_tokens"]
    assert (tokens == toy.task.dictionary.pad()).any()
    return tokens


def run(model, tokens, kind, head=HEAD):
    """Pass a batch through the model with the hook; return logits and features."""
    with classification_features(model, HEAD, kind):
        logits, extra = model(tokens, classification_head_name=head)
    return logits, extra.get(EXTRA_KEY)


def by_a_second_pass(model, tokens, kind):
    """Compute the features without the hook."""
    states = model(tokens, features_only=True)[0]
    head = model.classification_heads[HEAD]
    if kind == "mean":
        rows = zip(states, tokens, strict=True)
        return torch.stack([at_least_float32(s[t != PAD]).mean(0) for s, t in rows])
    first = states[:, 0, :]
    return first if kind == "cls" else head.activation_fn(head.dense(first))


def hooks_on(model):
    """Count what is registered on all modules of a model."""
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


@pytest.mark.parametrize("kind", FEATURES)
def test_features_equal_those_of_a_second_stock_pass(model, tokens, kind):
    logits, features = run(model, tokens, kind)
    assert features.shape == (8, 16)
    torch.testing.assert_close(features, by_a_second_pass(model, tokens, kind))
    torch.testing.assert_close(logits, model(tokens, classification_head_name=HEAD)[0])


@pytest.mark.parametrize("kind", FEATURES)
def test_padding_does_not_change_the_features(model, tokens, kind):
    _, together = run(model, tokens, kind)
    for row, features in zip(tokens, together, strict=True):
        alone = run(model, row[row != 1][None], kind)[1][0]
        torch.testing.assert_close(alone, features, atol=1e-5, rtol=1e-4)


def test_features_come_from_the_pass_that_made_the_logits(toy, tokens):
    """With dropout on, only the same pass gives features that fit the logits."""
    model = toy.model.train()
    head = model.classification_heads[HEAD]
    logits, first = run(model, tokens, "cls")
    torch.testing.assert_close(logits, head(first[:, None, :]))
    logits, pooled = run(model, tokens, "pooled")
    torch.testing.assert_close(logits, head.out_proj(pooled))
    assert not torch.equal(run(model, tokens, "cls")[1], first)


@pytest.mark.parametrize("kind", FEATURES)
def test_there_is_no_second_pass(model, tokens, kind):
    passes = []
    handle = model.encoder.register_forward_hook(lambda *_: passes.append(1))
    run(model, tokens, kind)
    handle.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("kind", FEATURES)
def test_features_are_attached_to_the_graph(model, tokens, kind):
    weight = model.encoder.sentence_encoder.layers[0].fc1.weight
    weighting = torch.linspace(-1, 1, 16)
    (found,) = torch.autograd.grad(
        (run(model, tokens, kind)[1] * weighting).sum(), weight
    )
    (expected,) = torch.autograd.grad(
        (by_a_second_pass(model, tokens, kind) * weighting).sum(), weight
    )
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_have_the_dtype_of_the_model_and_means_at_least_float32(
    data, kind, dtype
):
    toy = toy_model([data])
    model = toy.model.eval().to(dtype)
    tokens = toy.batch()["net_input"]["src_tokens"]
    _, features = run(model, tokens, kind)
    smallest = torch.float32 if kind == "mean" else dtype
    assert features.dtype == torch.promote_types(dtype, smallest)
    torch.testing.assert_close(features, by_a_second_pass(model, tokens, kind))


@pytest.mark.parametrize("kind", FEATURES)
def test_no_hook_stays_on_the_model(model, tokens, kind):
    before = hooks_on(model)
    with classification_features(model, HEAD, kind):
        assert hooks_on(model) > before
    assert hooks_on(model) == before
    _, extra = model(tokens, classification_head_name=HEAD)
    assert EXTRA_KEY not in extra


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("place", ["encoder", "head", "out_proj"])
def test_no_hook_stays_after_an_exception(model, tokens, kind, place):
    head = model.classification_heads[HEAD]
    module = {"encoder": model.encoder, "head": head, "out_proj": head.out_proj}[place]

    def fail(*_):
        raise MemoryError("out of memory")

    before = hooks_on(model)
    handle = module.register_forward_hook(fail)
    with (
        pytest.raises(MemoryError, match="out of memory"),
        classification_features(model, HEAD, kind),
    ):
        model(tokens, classification_head_name=HEAD)
    handle.remove()
    assert hooks_on(model) == before
    assert EXTRA_KEY not in model(tokens, classification_head_name=HEAD)[1]


def test_a_failed_pass_does_not_affect_the_next_one(model, tokens):
    """Also within one block: an out-of-memory error that the caller survives."""
    head = model.classification_heads[HEAD]

    def fail(*_):
        raise MemoryError

    with classification_features(model, HEAD, "cls"):
        handle = head.register_forward_hook(fail)
        with pytest.raises(MemoryError):
            model(tokens, classification_head_name=HEAD)
        handle.remove()
        assert EXTRA_KEY not in model(tokens, features_only=True)[1]


def test_an_unknown_head_leaves_no_hooks(model):
    before = hooks_on(model)
    with pytest.raises(KeyError), classification_features(model, "other", "cls"):
        pass
    assert hooks_on(model) == before


def test_two_passes_in_a_block_each_give_their_own_features(model, tokens):
    with classification_features(model, HEAD, "cls"):
        pairs = [
            model(part, classification_head_name=HEAD)[1][EXTRA_KEY]
            for part in (tokens[:4], tokens[4:])
        ]
    torch.testing.assert_close(torch.cat(pairs), by_a_second_pass(model, tokens, "cls"))


@pytest.mark.parametrize("wrapper", ["torch", "pytorch_ddp", "legacy_ddp"])
@pytest.mark.parametrize("kind", FEATURES)
def test_features_pass_through_data_parallel_wrappers(data, tmp_path, kind, wrapper):
    toy = toy_model([data])
    tokens = toy.batch()["net_input"]["src_tokens"]
    expected = by_a_second_pass(toy.model.eval(), tokens, kind)
    before = hooks_on(toy.model)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        group = torch.distributed.group.WORLD
        if wrapper == "legacy_ddp":
            wrapped = LegacyDistributedDataParallel(toy.model, group)
        else:
            wrapped = DistributedDataParallel(toy.model, find_unused_parameters=True)
        if wrapper != "torch":  # so that DistributedFairseqModel wraps both of its own
            wrapped = ModuleProxyWrapper(wrapped)
        _, features = run(wrapped, tokens, kind)
        torch.testing.assert_close(features, expected)
        (features * torch.linspace(-1, 1, 16)).sum().backward()
        weight = toy.model.encoder.sentence_encoder.layers[0].fc1.weight
        assert weight.grad.abs().max() > 0
        assert hooks_on(toy.model) == before
    finally:
        torch.distributed.destroy_process_group()
