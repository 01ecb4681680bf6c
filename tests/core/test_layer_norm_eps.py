"""``roberta_bert`` has its epsilon everywhere, and folds into the stock model."""

import copy

import pytest
import torch

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.huggingface import fold_layer_norm_eps
from fairseq_scl.errors import InputError
from helpers.training import toy_model, trained_checkpoint

HEAD = "sentence_classification_head"
SETTINGS = {
    "1e-12": ["--arch", "roberta_bert"],
    "1e-3": ["--arch", "roberta_bert", "--layer-norm-eps", "1e-3"],
    "1e-5": ["--arch", "roberta"],
}


def build(data, eps, seed=0):
    """Build a model whose layer norms read so little that their epsilon matters."""
    model = toy_model([data, *SETTINGS[eps]], seed).model.eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
            if "embed" in name and "norm" not in name:
                parameter.mul_(0.002)
    return model


def tokens():
    torch.manual_seed(3)
    ids = torch.randint(4, 15, (6, 12))
    ids[:, 0] = 0
    ids[3:, 8:] = 1
    return ids


def states(model):
    """Return features at all tokens but padding, and the logits of the classifier."""
    ids = tokens()
    with torch.no_grad():
        features = model(ids, features_only=True)[0][ids.ne(1)]
        return features, model(ids, classification_head_name=HEAD)[0]


@pytest.mark.parametrize("eps", SETTINGS)
def test_every_layer_norm_has_the_epsilon_of_the_flag(data, eps):
    model = build(data, eps)
    norms = [m for m in model.modules() if "LayerNorm" in type(m).__name__]
    assert {norm.eps for norm in norms} == {float(eps)}
    assert len(norms) == 1 + 2 * 2 + 1  # embeddings, two layers, lm_head


def test_state_dict_is_that_of_the_stock_model(data):
    stock, ours = (build(data, eps).state_dict() for eps in ("1e-5", "1e-12"))
    assert {n: t.shape for n, t in stock.items()} == {
        n: t.shape for n, t in ours.items()
    }


@pytest.mark.parametrize("eps", ["1e-12", "1e-3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_folded_model_computes_the_same_with_the_stock_epsilon(data, eps, dtype):
    source, stock = build(data, eps), build(data, "1e-5", seed=1)
    weights = source.state_dict()
    stock.load_state_dict(weights)
    wanted, unfolded = states(source.to(dtype)), states(stock.to(dtype))
    assert (unfolded[0] - wanted[0]).abs().max() > 0.1
    stock.load_state_dict(fold_layer_norm_eps(weights, float(eps)))
    # Folded weights are float32 whatever the model's type is.
    torch.testing.assert_close(states(stock), wanted, atol=2e-5, rtol=1e-5)


def test_folding_is_exact_in_exact_arithmetic(data):
    """With c = 1024 scaling rounds nothing, so only float64's rounding is left."""
    source, stock = build(data, "1e-5").double(), build(data, "1e-5", seed=1).double()
    eps = 1e-5 / 1024**2
    weights = source.state_dict()
    for module in source.modules():
        if hasattr(module, "eps"):
            module.eps = eps
    stock.load_state_dict(fold_layer_norm_eps(weights, eps))
    source.load_state_dict({n: t.float() for n, t in weights.items()})
    torch.testing.assert_close(states(stock), states(source), atol=1e-11, rtol=0)


def test_the_language_model_keeps_the_size_of_its_logits(data):
    source, stock = build(data, "1e-12"), build(data, "1e-5", seed=1)
    with torch.no_grad():  # its layer norm, which cannot be folded, reads large numbers
        source.encoder.lm_head.dense.weight.mul_(100)
    stock.load_state_dict(fold_layer_norm_eps(source.state_dict(), 1e-12))
    with torch.no_grad():
        wanted, found = source(tokens())[0], stock(tokens())[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_folding_leaves_its_input_as_it_is_and_the_same_epsilon_changes_nothing(data):
    weights = build(data, "1e-12").state_dict()
    before = copy.deepcopy(weights)
    fold_layer_norm_eps(weights, 1e-12)
    assert all(torch.equal(before[name], weights[name]) for name in before)
    same = fold_layer_norm_eps(weights, 1e-5)
    words = same["encoder.sentence_encoder.embed_tokens.weight"]
    assert same["encoder.lm_head.weight"] is words
    assert all(torch.equal(tensor, weights[name]) for name, tensor in same.items())


def test_folding_returns_float32(data):
    weights = {n: t.half() for n, t in build(data, "1e-12").state_dict().items()}
    folded = fold_layer_norm_eps(weights, 1e-12)
    assert {tensor.dtype for tensor in folded.values()} == {torch.float32}


def test_what_cannot_be_folded_is_refused(data):
    weights = build(data, "1e-12").state_dict()
    with pytest.raises(InputError, match=r"0.0 \(from\).*allowed: above 0"):
        fold_layer_norm_eps(weights, 0.0)
    weights["encoder.sentence_encoder.layer_norm.weight"] = torch.ones(16)
    with pytest.raises(InputError, match="a pre-norm RoBERTa"):
        fold_layer_norm_eps(weights, 1e-12)


def test_fairseq_train_takes_the_architecture(data, tmp_path):
    flags = ["--arch", "roberta_bert", "--layer-norm-eps", "1e-6", "--max-update", "1"]
    file = trained_checkpoint(data, tmp_path, *flags)
    assert load_checkpoint(file)["cfg"]["model"].layer_norm_eps == 1e-6
