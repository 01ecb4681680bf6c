"""The command line of the converter, and the encoders and files that it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_huggingface import PIECES, write_source

from fairseq_scl.cli import main
from fairseq_scl.convert.huggingface import EncoderFiles, convert_encoder
from fairseq_scl.errors import InputError


@pytest.fixture
def source(tmp_path):
    """Write a BERT in a folder whose name has blanks and quotes."""
    write_source(tmp_path / 'the "hugging" face')
    return tmp_path / 'the "hugging" face'


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config |= {name: value for name, value in changes.items() if value is not ...}
    for name in (name for name, value in changes.items() if value is ...):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def run(capsys, *arguments):
    status = main(["convert", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_command_line_converts_a_folder(source, tmp_path, capsys):
    status, out, _ = run(capsys, "--from", source, "--to", tmp_path / "encoder")
    assert status == 0
    names = {"model.pt", "dict.txt", "vocab.txt", "tokenizer_settings.json"}
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == names
    assert "roberta_bert, 3 layers, 32 dimensions, 4 heads" in out
    assert "at most 40 tokens" in out
    assert "lm_head is a placeholder" in out
    assert "--arch roberta_bert --encoder-layers 3 --encoder-embed-dim 32 " in out
    assert "--max-positions 40 --layer-norm-eps 1e-12\n" in out


@pytest.mark.parametrize("flag", ["--cased", "--uncased"])
def test_command_line_converts_single_files(source, tmp_path, capsys, flag):
    files = ["--weights", source / "model.safetensors", "--config"]
    files += [source / "config.json", "--vocab", source / "vocab.txt"]
    status, *_ = run(capsys, *files, flag, "--to", tmp_path / "encoder")
    assert status == 0
    settings = (tmp_path / "encoder" / "tokenizer_settings.json").read_text()
    assert json.loads(settings)["lowercase"] is (flag == "--uncased")


def test_command_line_takes_two_vocabulary_files(tmp_path, capsys):
    write_source(tmp_path, "roberta")
    files = ["--weights", tmp_path / "model.safetensors", "--config"]
    files += [tmp_path / "config.json", "--vocab"]
    files += [tmp_path / "vocab.json", tmp_path / "merges.txt"]
    status, out, _ = run(capsys, *files, "--to", tmp_path / "encoder")
    assert status == 0
    assert "--layer-norm-eps" not in out
    assert (tmp_path / "encoder" / "encoder.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--weights is missing: give --from FOLDER, or all of"),
        (["--weights", "w", "--vocab", "v"], "--config is missing"),
        (["--from", "f", "--vocab", "v"], "--from and --vocab exclude each other"),
        (["--from", "no/such"], "missing folder: no/such"),
    ],
)
def test_command_line_says_which_flag_is_wrong(tmp_path, capsys, flags, message):
    status, _, err = run(capsys, *flags, "--to", tmp_path / "encoder")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model_type", "xlm-roberta", "'xlm-roberta' has a sentencepiece vocabulary"),
        ("model_type", "distilbert", "is 'distilbert', allowed: bert, roberta"),
        ("model_type", ..., "model_type is None"),
        ("hidden_act", "gelu_new", "hidden_act is 'gelu_new'.*allowed: 'gelu'"),
        ("hidden_act", "relu", "hidden_act is 'relu'"),
        ("position_embedding_type", "relative_key", "position_embedding_type"),
        ("is_decoder", True, "is_decoder is True"),
        ("add_cross_attention", True, "add_cross_attention is True"),
        ("hidden_size", ..., "hidden_size is None"),
        ("num_attention_heads", 5, "hidden_size is 32, allowed: a multiple of the 5"),
        ("num_hidden_layers", "6", "num_hidden_layers is '6', allowed: a number"),
        ("num_hidden_layers", 4, r"lacks the tensor encoder\.layer\.3\."),
        (
            "num_hidden_layers",
            2,
            r"no part of such an encoder: encoder\.layer\.2\..* and 11 more",
        ),
        ("intermediate_size", 64, r"intermediate.*shape \(48, 32\).*asks for \(64, 32"),
        ("max_position_embeddings", 20, "position_embeddings.*shape"),
        ("vocab_size", 20, "has 41 pieces, the encoder's configuration 20"),
        ("layer_norm_eps", 0, "layer_norm_eps is 0, allowed: above 0"),
        ("layer_norm_eps", "small", "layer_norm_eps is 'small'"),
        ("hidden_dropout_prob", 1.5, "hidden_dropout_prob is 1.5, allowed: from 0"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    source, tmp_path, setting, value, message
):
    change_config(source, **{setting: value})
    with pytest.raises(InputError, match=message):
        convert_encoder(source, tmp_path / "encoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.update(classifier=torch.ones(1)),
            "no part of such an encoder: classifier",
        ),
        (lambda w: w.pop("embeddings.LayerNorm.bias"), "lacks.*LayerNorm.bias"),
        (
            lambda w: w.update({"embeddings.LayerNorm.bias": torch.ones(32).int()}),
            "LayerNorm.bias holds torch.int32, allowed: float",
        ),
    ],
)
def test_other_weights_are_refused_by_name(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(InputError, match=message):
        convert_encoder(source, tmp_path / "encoder")


def test_an_output_layer_of_its_own_is_refused(tmp_path):
    write_source(tmp_path, "roberta", "RobertaForMaskedLM")
    rows = load_file(tmp_path / "model.safetensors")["lm_head.bias"]
    change_weights(
        tmp_path,
        lambda w: w.update({"lm_head.decoder.weight": torch.ones(len(rows), 32)}),
    )
    with pytest.raises(InputError, match=r"lm_head\.decoder\.weight differs from"):
        convert_encoder(tmp_path, tmp_path / "encoder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", "safetensors was not loaded: it is damaged"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0no", "was not loaded: it is damaged"),
        ("model.safetensors", None, "neither model.safetensors nor pytorch_model.bin"),
        ("config.json", b"{", "cannot read .*config.json as JSON"),
        ("config.json", b"[]", "is no configuration"),
        ("config.json", None, "missing file: .*config.json"),
        ("vocab.txt", None, "missing vocabulary of a bert: .*vocab.txt"),
        ("tokenizer_config.json", b"{}", "give --cased or --uncased"),
        ("tokenizer_config.json", None, "give --cased or --uncased"),
        (
            "tokenizer_config.json",
            b'{"do_lower_case": true, "do_basic_tokenize": false}',
            "do_basic_tokenize is False",
        ),
        ("vocab.txt", "\n".join(PIECES[1:]).encode(), r"special symbol \[PAD\]"),
        ("vocab.txt", b"[UNK]\n<s>\n", "line 2: the piece <s> is the name"),
    ],
)
def test_missing_and_damaged_files_are_named(source, tmp_path, name, content, message):
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "earlier").touch()
    with pytest.raises(InputError, match=message):
        convert_encoder(source, tmp_path / "encoder")
    assert [p.name for p in (tmp_path / "encoder").iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", '{"<s>": 0, "<pad>": 2}', "does not number its pieces from 0"),
        ("vocab.json", '{"<s>": 0, "<pad>": 1}', "lacks '!', which .* makes"),
        ("merges.txt", "#version: 0.2\nz z\n", "lacks 'zz', which .*merges.txt makes"),
        ("tokenizer_config.json", '{"add_prefix_space": true}', "add_prefix_space is"),
    ],
)
def test_bad_files_of_a_roberta_are_refused(tmp_path, name, content, message):
    write_source(tmp_path, "roberta")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        convert_encoder(tmp_path, tmp_path / "encoder")


def test_vocabulary_files_of_the_other_kind_are_refused(source, tmp_path):
    write_source(tmp_path / "roberta", "roberta")
    files = EncoderFiles(
        tmp_path / "roberta" / "model.safetensors",
        tmp_path / "roberta" / "config.json",
        (source / "vocab.txt",),
    )
    with pytest.raises(InputError, match=r"roberta is vocab\.json and merges\.txt"):
        convert_encoder(files, tmp_path / "encoder")


def test_weights_that_carry_code_are_refused_and_do_not_run_it(source, tmp_path):
    (source / "model.safetensors").unlink()

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"weight": Hostile()}, source / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin was not.*asks for _?io\.open"
    ):
        convert_encoder(source, tmp_path / "encoder")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\3\4 cut off"])
def test_damaged_pickles_are_named(source, tmp_path, content):
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"pytorch_model\.bin was not.*is damaged"):
        convert_encoder(source, tmp_path / "encoder")


@pytest.mark.parametrize("content", [torch.ones(2), {"weight": "text"}])
def test_a_file_without_tensors_by_name_is_refused(source, tmp_path, content):
    (source / "model.safetensors").unlink()
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(InputError, match="expected tensors by name"):
        convert_encoder(source, tmp_path / "encoder")


def test_sharded_weights_are_named_as_such(source, tmp_path):
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="weights are in several files"):
        convert_encoder(source, tmp_path / "encoder")
