"""Loading translation models, and what is refused."""

import shutil

import pytest
import torch

from fairseq_scl.augment.directions import find_models
from fairseq_scl.augment.translator import checkpoints_of, load_translator
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.errors import InputError
from helpers.encoders import toy_encoder
from helpers.refusals import refused
from helpers.translation import make_toy_models, toy_models


@pytest.fixture
def folder(tmp_path):
    """A copy that a test can spoil."""
    return shutil.copytree(toy_models(updates=0), tmp_path / "models")


def test_a_folder_and_its_file_are_the_same(folder):
    for name in (folder, folder / "model.pt"):
        translator = load_translator([name], "en", "de")
        assert translator.folder == folder
        assert (translator.max_source, translator.max_target) == (24, 23)
        assert translator.left_pad
        assert not translator.models[0].training
        assert translator.models == translator.exact
        assert translator.target.symbols[4:6] == ["A", "B"]


def test_all_checkpoints_of_a_folder_are_an_ensemble(folder):
    shutil.copy(toy_models(seed=2, updates=0) / "model.pt", folder / "another.pt")
    assert len(load_translator([folder], "en", "de").models) == 2
    more = toy_models(seed=3, updates=0)
    assert len(checkpoints_of([folder, more / "model.pt"])) == 3


def test_an_old_checkpoint_with_arguments_is_read(folder):
    state = load_checkpoint(folder / "model.pt", trusted=True)
    cfg = state.pop("cfg")
    state["args"] = cfg["model"]  # of old flags, it holds all of them
    torch.save(state, folder / "model.pt")
    assert len(load_translator([folder], "en", "de").models) == 1


def test_missing_and_damaged_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"missing translation model: .*nowhere"):
        load_translator([tmp_path / "nowhere"], "en", "de")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no checkpoint: it needs a \*\.pt"):
        load_translator([tmp_path / "empty"], "en", "de")
    (folder / "dict.de.txt").write_bytes(b"A")
    with pytest.raises(InputError, match=r"dict\.de\.txt is not a fairseq dictionary"):
        load_translator([folder], "en", "de")
    (folder / "dict.de.txt").unlink()
    with pytest.raises(InputError, match=r"missing dictionary: .*dict\.de\.txt"):
        load_translator([folder], "en", "de")


def test_the_wrong_direction_is_refused(folder):
    with refused("translates en to de, but a model from de to en is needed"):
        load_translator([folder], "de", "en")


def test_other_checkpoints_are_refused(folder):
    shutil.copy(toy_encoder() / "model.pt", folder / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt is not a translation model"):
        load_translator([folder], "en", "de")
    torch.save({"weights": 1}, folder / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt is"):
        load_translator([folder], "en", "de")
    (folder / "model.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"model\.pt is damaged"):
        load_translator([folder], "en", "de")


def test_dictionaries_that_do_not_fit_are_refused(folder, tmp_path):
    other = make_toy_models(tmp_path / "other", updates=0)
    for name in (folder, other):
        text = (name / "dict.de.txt").read_text()
        (name / "dict.de.txt").write_text(text.replace("A ", "Ä "))
        break
    with refused("model.pt have different target dictionaries"):
        load_translator([folder, other], "en", "de")
    (other / "dict.de.txt").write_text("A 1\n")
    with pytest.raises(InputError, match="does not match the dictionaries in"):
        load_translator([other], "en", "de")


def test_half_precision_needs_a_gpu(folder):
    with pytest.raises(InputError, match="the precision is 'bf16', which needs a GPU"):
        load_translator([folder], "en", "de", precision="bf16")


def test_the_bpe_of_a_model_is_detected(folder):
    with pytest.raises(InputError, match=r"has no BPE codes .* --bpe to one of"):
        find_models(str(folder), "en", "de")
    (folder / "bpecodes").write_text("#version: 0.2\nz z\n")
    found = find_models(f"{folder}:{folder / 'model.pt'}", "en", "de")
    assert (found.bpe, len(found.checkpoints)) == ("subword_nmt", 2)
    direction = found.load()
    assert direction.source.encode("a b") == ["a", "b"]
    assert found.describe()["languages"] == ["en", "de"]
