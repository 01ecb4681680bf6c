"""The command line of the converter, and the encoders and files that it refuses."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_scl.convert.huggingface import EncoderFiles, convert_encoder
from fairseq_scl.errors import InputError
from helpers.huggingface import PIECES, write_source, write_tokenizer_json
from helpers.refusals import refused


@pytest.fixture
def source(tmp_path):
    """Write a BERT in a folder whose name has blanks and quotes."""
    write_source(tmp_path / 'the "hugging" face')
    return tmp_path / 'the "hugging" face'


DENSE = "encoder.layer.1.output.dense.weight"


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


def test_command_line_converts_a_folder(source, tmp_path, run):
    status, out, _ = run("convert", "--from", source, "--to", tmp_path / "encoder")
    assert status == 0
    names = {"model.pt", "dict.txt", "vocab.txt", "tokenizer_settings.json"}
    names.add("manifest.json")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == names
    assert "roberta_bert, 3 layers, 32 dimensions, 4 heads" in out
    assert "at most 40 tokens" in out
    assert "lm_head is a placeholder" in out
    assert "--arch roberta_bert --encoder-layers 3 --encoder-embed-dim 32 " in out
    assert "--layer-norm-eps 1e-12 --max-positions 40\n" in out


@pytest.mark.parametrize("flag", ["--cased", "--uncased"])
def test_command_line_converts_single_files(source, tmp_path, run, flag):
    files = ["--weights", source / "model.safetensors", "--config"]
    files += [source / "config.json", "--vocab", source / "vocab.txt"]
    status, *_ = run("convert", *files, flag, "--to", tmp_path / "encoder")
    assert status == 0
    settings = (tmp_path / "encoder" / "tokenizer_settings.json").read_text()
    assert json.loads(settings)["lowercase"] is (flag == "--uncased")


def test_command_line_takes_two_vocabulary_files(tmp_path, run):
    write_source(tmp_path, "roberta")
    files = ["--weights", tmp_path / "model.safetensors", "--config"]
    files += [tmp_path / "config.json", "--vocab"]
    files += [tmp_path / "vocab.json", tmp_path / "merges.txt"]
    status, out, _ = run("convert", *files, "--to", tmp_path / "encoder")
    assert status == 0
    assert "--layer-norm-eps" not in out
    assert (tmp_path / "encoder" / "encoder.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--weights is missing: give --from FOLDER, or all of"),
        (["--weights", "w", "--vocab", "v"], "--config is missing"),
        (["--from", "f", "--vocab", "v"], "--from and --vocab are both given"),
        (["--from", "./no/such"], "missing folder: no/such"),
    ],
)
def test_command_line_says_which_flag_is_wrong(tmp_path, refusal, flags, message):
    assert message in refusal("convert", *flags, "--to", tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model_type", "xlm-roberta", "'xlm-roberta' has a sentencepiece vocabulary"),
        ("model_type", "distilbert", "model_type.*'distilbert'.*bert, roberta"),
        ("model_type", ..., "model_type"),
        ("hidden_act", "gelu_new", "hidden_act is 'gelu_new'.*allowed: 'gelu'"),
        ("hidden_act", "relu", "hidden_act is 'relu'"),
        ("position_embedding_type", "relative_key", "position_embedding_type"),
        ("is_decoder", True, "is_decoder is True"),
        ("pruned_heads", {"0": [1]}, "pruned_heads is {'0': \\[1\\]}"),
        ("quantization_config", {"bits": 8}, "quantization_config is {'bits': 8}"),
        ("auto_map", {"AutoModel": "m.Model"}, "auto_map is .*m.Model"),
        ("add_cross_attention", True, "add_cross_attention is True"),
        ("hidden_size", ..., "hidden_size"),
        ("pad_token_id", "x", "pad_token_id: expected int.*'x'"),
        ("num_attention_heads", 5, "hidden_size is 32, allowed: a multiple of the 5"),
        ("num_hidden_layers", "6", "num_hidden_layers: expected int.*'6'"),
        ("num_hidden_layers", 4, r"lacks the tensor encoder\.layer\.3\."),
        ("num_hidden_layers", 2, r"not part of .*: encoder\.layer\.2\..* and 11 more"),
        ("intermediate_size", 64, r"intermediate.*shape \(48, 32\).*requires \(64, 32"),
        ("max_position_embeddings", 20, "position_embeddings.*shape"),
        ("vocab_size", 20, "has 41 pieces, the encoder's configuration 20"),
        ("layer_norm_eps", 0, "layer_norm_eps: expected float > 0.*found 0"),
        ("layer_norm_eps", "small", "layer_norm_eps: expected float.*'small'"),
        ("hidden_dropout_prob", 1.5, "hidden_dropout_prob: .*< 1.*found 1.5"),
        ("tokenizer_class", "Other", r"config\.json: tokenizer_class is 'Other'"),
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
        (lambda w: w.update(classifier=torch.ones(1)), "not part of .*: classifier"),
        (lambda w: w.pop("embeddings.LayerNorm.bias"), "lacks.*LayerNorm.bias"),
        (
            lambda w: w.update({"embeddings.LayerNorm.bias": torch.ones(32).int()}),
            "LayerNorm.bias has torch.int32, allowed: float",
        ),
        (lambda w: w[DENSE][3].fill_(math.nan), f"safetensors has NaN in {DENSE}"),
        (lambda w: w[DENSE][3].fill_(math.inf), f"has an infinite value in {DENSE}"),
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
        ("model.safetensors", 0.9, "safetensors was not loaded: it is damaged"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0no", "was not loaded: it is damaged"),
        ("model.safetensors", None, "neither model.safetensors nor pytorch_model.bin"),
        ("config.json", b"{", "cannot read .*config.json as JSON"),
        ("config.json", b"[]", "config.json: expected object"),
        ("config.json", None, "missing file: .*config.json"),
        ("vocab.txt", None, "missing vocabulary of a bert: .*vocab.txt"),
        ("tokenizer_config.json", b"{}", "use --cased or --uncased"),
        ("tokenizer_config.json", None, "use --cased or --uncased"),
        (
            "tokenizer_config.json",
            b'{"do_lower_case": true, "do_basic_tokenize": false}',
            "do_basic_tokenize is False",
        ),
        ("vocab.txt", "\n".join(PIECES[1:]).encode(), r"special symbol \[PAD\]"),
        ("vocab.txt", b"[UNK]\n<s>\n", "row 1: the piece <s> is the name"),
        (
            "vocab.txt",
            "\n".join([*PIECES[-4:], "[PAD]", "▁the", "film"]).encode(),
            "vocab.txt marks words with ▁",
        ),
        ("special_tokens_map.json", b'{"cls_token": "<cls>"}', "cls_token is '<cls>'"),
        ("special_tokens_map.json", b"[]", "special_tokens_map.json is not a JSON obj"),
        ("added_tokens.json", b'{"[CLS]": 38, "@url": 41}', "adds the token '@url'"),
        ("tokenizer.json", b'{"model": 3}', "tokenizer.json is not a tokenizer"),
    ],
)
def test_missing_and_damaged_files_are_named(source, tmp_path, name, content, message):
    if content is None:
        (source / name).unlink()
    elif isinstance(content, float):
        whole = (source / name).read_bytes()
        (source / name).write_bytes(whole[: int(content * len(whole))])
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
        ("vocab.json", '{"<s>": 0, "<pad>": "1"}', "vocab.json: .*'<pad>': '1'"),
        ("vocab.json", '{"<s>": 0, "<pad>": 0}', "'<s>' and '<pad>' in row 0"),
        ("vocab.json", "[0]", "vocab.json: expected object"),
        (
            "vocab.json",
            '{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}',
            "lacks '!', which .* produces",
        ),
        ("merges.txt", "#version: 0.2\nz z\n", "lacks 'zz', which .*merges.txt prod"),
        ("tokenizer_config.json", '{"add_prefix_space": true}', "add_prefix_space is"),
    ],
)
def test_bad_files_of_a_roberta_are_refused(tmp_path, name, content, message):
    write_source(tmp_path, "roberta")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        convert_encoder(tmp_path, tmp_path / "encoder")


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("bert", "tokenizer_class", "CharacterBertTokenizer"),
        ("bert", "tokenizer_class", "PreTrainedTokenizerFast"),  # with tokenizer.json
        ("bert", "word_tokenizer_type", "sudachi"),
        ("bert", "subword_tokenizer_type", "sentencepiece"),
        ("bert", "never_split", ["covid19"]),
        ("bert", "tokenize_chinese_chars", 1),
        ("bert", "sep_token", {"content": "[END]", "lstrip": False}),
        ("roberta", "tokenizer_class", "BertweetTokenizer"),
        ("roberta", "normalization", True),
        ("roberta", "eos_token", "<|endoftext|>"),
    ],
)
def test_settings_of_a_tokenizer_that_we_do_not_compute_are_refused_by_name(
    tmp_path, kind, setting, value
):
    write_source(tmp_path, kind)
    settings = {"do_lower_case": True, setting: value}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    shown = value["content"] if isinstance(value, dict) else value
    with refused(f"{setting} is {shown!r}"):
        convert_encoder(tmp_path, tmp_path / "encoder")


LOWERCASE = {"type": "Lowercase"}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("roberta", {"normalizer": {"type": "NFKC"}}, r"NFKC .*splits 'ﬁlm'"),
        (
            "roberta",
            {"normalizer": {"type": "Sequence", "normalizers": [LOWERCASE]}},
            "normalizer Lowercase",
        ),
        ("roberta", {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer Whitesp"),
        ("bert", {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "WhitespaceSplit"),
        (
            "bert",
            {"normalizer": {"type": "Sequence", "normalizers": []}},
            r"splits 'The' into \['\[UNK\]'\].* into \['the'\]",
        ),
        (
            "bert",
            {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}},
            "Word",
        ),
        ("bert", {"vocab": {"film": 1}}, "'film' in row 3, .*tokenizer.json in row 1"),
        ("bert", {"max_input_chars_per_word": 3}, "splits .* into"),
        ("bert", {"unk_token": "[FOO]"}, r"is not a tokenizer: .*\[UNK\]"),
        ("bert", {"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "zero"),
        ("roberta", {"dropout": 0.9}, "splits .* into"),
    ],
)
def test_a_tokenizer_json_that_computes_something_else_is_refused(
    tmp_path, kind, changes, message
):
    write_source(tmp_path, kind)
    write_tokenizer_json(tmp_path)
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    for name, value in changes.items():
        if name == "vocab":
            found["model"]["vocab"] |= value
        elif name in found["model"]:
            found["model"][name] = value
        else:
            found[name] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=message):
        convert_encoder(tmp_path, tmp_path / "encoder")


def test_uncased_is_refused_for_a_bpe(tmp_path):
    write_source(tmp_path / "hf", "roberta")
    with refused("--uncased"):
        convert_encoder(tmp_path / "hf", tmp_path / "encoder", lowercase=True)


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


DAMAGED = r"pytorch_model\.bin was not.*is damaged"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", DAMAGED),
        (b"hello world", DAMAGED),
        (b"PK\3\4 cut off", DAMAGED),
        (torch.ones(2), "expected tensors by name"),
        ({"weight": "text"}, "expected tensors by name"),
    ],
)
def test_a_pickle_without_tensors_by_name_is_refused(
    source, tmp_path, content, message
):
    (source / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (source / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(InputError, match=message):
        convert_encoder(source, tmp_path / "encoder")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "lacks weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', r"'\.\./model.safetensors'"),
        ('{"weight_map": {"a": "config.json"}}', "the file 'config.json', allowed"),
        ('{"weight_map": {"a": "b.bin"}}', "missing file: .*b.bin"),
    ],
)
def test_an_index_of_weights_stays_in_its_folder(source, tmp_path, index, message):
    (source / "model.safetensors").rename(tmp_path / "model.safetensors")
    (source / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message):
        convert_encoder(source, tmp_path / "encoder")
