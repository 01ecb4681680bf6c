"""``roberta_bert`` has its epsilon everywhere."""

import pytest

from fairseq_scl.compat.checkpoints import load_checkpoint
from helpers.training import toy_model, trained_checkpoint

SETTINGS = {
    "1e-12": ["--arch", "roberta_bert"],
    "1e-3": ["--arch", "roberta_bert", "--layer-norm-eps", "1e-3"],
    "1e-5": ["--arch", "roberta"],
}


@pytest.mark.parametrize("eps", SETTINGS)
def test_every_layer_norm_has_the_epsilon_of_the_flag(data, eps):
    model = toy_model([data, *SETTINGS[eps]]).model
    norms = [m for m in model.modules() if "LayerNorm" in type(m).__name__]
    assert {norm.eps for norm in norms} == {float(eps)}
    assert len(norms) == 1 + 2 * 2 + 1  # embeddings, two layers, lm_head


def test_state_dict_is_that_of_the_stock_model(data):
    models = (toy_model([data, *SETTINGS[eps]]).model for eps in ("1e-5", "1e-12"))
    stock, ours = (model.state_dict() for model in models)
    assert {n: t.shape for n, t in stock.items()} == {
        n: t.shape for n, t in ours.items()
    }


def test_fairseq_train_takes_the_architecture(data, tmp_path):
    flags = ["--arch", "roberta_bert", "--layer-norm-eps", "1e-6", "--max-update", "1"]
    file = trained_checkpoint(data, tmp_path, *flags)
    assert load_checkpoint(file)["cfg"]["model"].layer_norm_eps == 1e-6
