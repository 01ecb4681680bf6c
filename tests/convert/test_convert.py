"""A converted encoder computes what transformers computes; a folded one as well."""

import json

import pytest
import torch
import transformers
from fairseq.models.roberta import RobertaModel
from torch.nn.utils.rnn import pad_sequence

from fairseq_scl.cli import main
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.encoder_config import read_config
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import binarize, fairseq_flags
from fairseq_scl.data.texts import Example
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.data.vocabulary_files import number_pieces
from helpers.huggingface import (
    MERGES,
    MODELS,
    PIECES,
    fast_tokenizer,
    save_model,
    write_source,
    write_tokenizer_json,
)
from helpers.training import train_fast

SENTENCES = [("the film",), ("a gripping , beautifully acted film !",), ("x",), ("",)]
PAIRS = [("the film", "a film ."), ("a", "beautifully acted the film ! !"), ("", "x")]
CASES = [(kind, name) for kind, names in MODELS.items() for name in names]


def load(folder):
    """Load an encoder folder as fairseq's hub does, without a network."""
    return RobertaModel.from_pretrained(str(folder)).eval()


def token_ids(hub, tokenizer, sentences):
    dictionary, ids = hub.task.source_dictionary, [0]
    for number, symbols in enumerate(tokenizer.encode_lines(sentences)):
        ids += [2] * (number > 0 and tokenizer.pair_separator)
        ids += [*(dictionary.index(symbol) for symbol in symbols), 2]
    return torch.tensor(ids)


def fairseq_states(hub, folder, batch, **kwargs):
    """Return what fairseq computes at all tokens but padding, sentence by sentence."""
    tokenizer = load_tokenizer(folder)
    rows = [token_ids(hub, tokenizer, sentences) for sentences in batch]
    tokens = pad_sequence(rows, batch_first=True, padding_value=1)
    with torch.no_grad():
        return hub.model(tokens, **kwargs)[0][tokens.ne(1)]


def transformers_states(model, source, batch, tokenizer=None):
    """Return the same of transformers, with its own tokenizer and all token types 0."""
    tokenizer = tokenizer or fast_tokenizer(source)
    rows = [torch.tensor(tokenizer(*sentences)["input_ids"]) for sentences in batch]
    tokens = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    ones = [torch.ones_like(row) for row in rows]
    mask = pad_sequence(ones, batch_first=True)
    with torch.no_grad():
        output = model(tokens, attention_mask=mask, token_type_ids=0 * tokens)
    return output[0][mask.bool()]


def assert_same_states(model, source, target, batch=PAIRS, tokenizer=None):
    """Compare hidden states; return them, one row per token."""
    ours = fairseq_states(load(target), target, batch, features_only=True)
    wanted = transformers_states(model, source, batch, tokenizer)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    return ours


@pytest.mark.parametrize("batch", [SENTENCES, PAIRS, SENTENCES[1:2], PAIRS[:1]])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_hidden_states_are_those_of_transformers(tmp_path, kind, name, batch):
    source, target = tmp_path / "hf", tmp_path / "encoder"
    model = write_source(source, kind, name)
    done = convert_encoder(source, target)
    assert done.language_model_head == ("For" in name)
    assert_same_states(model.base_model, source, target, batch)


def test_epsilon_matters_in_these_tests_and_is_right(tmp_path):
    """Embeddings with a variance of 1e-6: with 1e-5 instead of 1e-12 all is wrong."""
    model = write_source(tmp_path / "hf", scale=0.005)
    convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    right = assert_same_states(model, tmp_path / "hf", tmp_path / "encoder", SENTENCES)
    hub = load(tmp_path / "encoder")
    for module in hub.model.modules():
        if hasattr(module, "eps"):
            assert module.eps == 1e-12
            module.eps = 1e-5
    found = fairseq_states(hub, tmp_path / "encoder", SENTENCES, features_only=True)
    assert (found - right).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_longest_input_is_that_of_transformers(tmp_path, kind):
    model = write_source(tmp_path / "hf", kind)
    done = convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    hub = load(tmp_path / "encoder")
    assert done.config.max_positions == hub.model.max_positions() == 40
    batch = [(" ".join("x" * 38),)] if kind == "bert" else [("x" * 38,)]
    ours = assert_same_states(model, tmp_path / "hf", tmp_path / "encoder", batch)
    assert len(ours) == 40


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if "For" in case[1]])
def test_logits_of_the_language_model_are_those_of_transformers(tmp_path, kind, name):
    source, target = tmp_path / "hf", tmp_path / "encoder"
    model = write_source(source, kind, name)
    convert_encoder(source, target)
    hub = load(target)
    symbols = hub.task.source_dictionary.symbols
    ids = {piece: number for number, piece in enumerate(PIECES)}
    names = {"<s>": "[CLS]", "</s>": "[SEP]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    if kind == "roberta":
        ids = json.loads((source / "vocab.json").read_text())
        names = {str(n): piece for piece, n in number_pieces(MERGES).items()}
        names["madeupword0000"] = "extra"
    columns = [
        ids[names.get(symbol, symbol)] for symbol in symbols if symbol != "<pad>"
    ]
    ours = fairseq_states(hub, target, PAIRS)
    ours = torch.cat([ours[:, :1], ours[:, 2:]], dim=1)  # without <pad>, made zero
    wanted = transformers_states(model, source, PAIRS)[:, columns]
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_checkpoint_is_plain_values_and_the_stock_state_dict(tmp_path, kind):
    write_source(tmp_path / "hf", kind)
    convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        state = torch.load(tmp_path / "encoder" / "model.pt", weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)
    settings = state["cfg"]["model"]
    assert settings["_name"] == {"bert": "roberta_bert", "roberta": "roberta"}[kind]
    weights = state["model"]
    encoder = "encoder.sentence_encoder."
    words = weights[f"{encoder}embed_tokens.weight"]
    assert weights["encoder.lm_head.weight"].data_ptr() == words.data_ptr()
    assert not words[1].any()
    assert not weights[f"{encoder}embed_positions.weight"][:2].any()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert weights.keys() == load(tmp_path / "encoder").model.state_dict().keys()


def test_half_precision_pickled_and_oldest_names_are_read(tmp_path):
    model = write_source(tmp_path / "hf", safe=False)
    file = tmp_path / "hf" / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        weights = {
            "bert." + n.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): t.half()
            for n, t in ((n.removeprefix("bert."), t) for n, t in weights.items())
        }
    torch.save(weights, file)
    convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    assert_same_states(model.half().float(), tmp_path / "hf", tmp_path / "encoder")


def test_rows_without_a_piece_are_left_out_and_counted(tmp_path):
    model = write_source(tmp_path / "hf", vocab_size=len(PIECES) + 5)
    done = convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    assert (done.symbols, done.unused_rows) == (len(PIECES), 5)
    assert_same_states(model, tmp_path / "hf", tmp_path / "encoder")


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_tokenizer_json_alone_gives_the_same_encoder(tmp_path, kind):
    source = tmp_path / "hf"
    write_source(source, kind)
    convert_encoder(source, tmp_path / "two files")
    write_tokenizer_json(source)
    convert_encoder(source, tmp_path / "both")
    for name in ("vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (source / name).unlink(missing_ok=True)
    convert_encoder(source, tmp_path / "alone")
    names = sorted(path.name for path in (tmp_path / "two files").iterdir())
    for other in ("both", "alone"):
        assert sorted(path.name for path in (tmp_path / other).iterdir()) == names
        for name in names:
            same = (tmp_path / "two files" / name).read_bytes()
            assert (tmp_path / other / name).read_bytes() == same, (other, name)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_added_tokens_keep_their_embeddings(tmp_path, kind):
    source, target = tmp_path / "hf", tmp_path / "encoder"
    word = transformers.AddedToken("Star_wars", normalized=False, single_word=True)
    added = ["[ENT]", word, "covid19"]
    size = {"bert": len(PIECES), "roberta": len(number_pieces(MERGES)) + 6}[kind]
    model = write_source(source, kind, vocab_size=size + len(added))
    tokenizer = write_tokenizer_json(source, added)
    done = convert_encoder(source, target)
    assert (done.unused_rows, len(done.tokenizer.settings.added_tokens)) == (0, 3)
    batch = [("the [ENT]film covid19",), ("Star_wars [ent] xStar_wars", "Covid19 a")]
    text = " ".join(" ".join(one) for one in batch)
    names = ("[ENT]", "Star_wars", "covid19")
    ids = {tokenizer.get_added_vocab()[name] for name in names}
    assert ids <= set(tokenizer(text)["input_ids"])
    assert_same_states(model, source, target, batch, tokenizer)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "BertForSequenceClassification"),
        ("bert", "BertForQuestionAnswering"),
        ("bert", "BertForMultipleChoice"),
        ("roberta", "RobertaForSequenceClassification"),
        ("roberta", "RobertaForTokenClassification"),
    ],
)
def test_a_task_head_is_left_out_and_named(tmp_path, capsys, kind, name):
    source, target = tmp_path / "hf", tmp_path / "encoder"
    model = write_source(source, kind, name)
    assert main(["convert", "--from", str(source), "--to", str(target)]) == 0
    head = {"BertForQuestionAnswering": "qa_outputs."}.get(name, "classifier.")
    assert f"left out: the task head ({head}" in capsys.readouterr().out
    assert_same_states(getattr(model, kind), source, target)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_several_files_are_those_in_one(tmp_path, safe):
    source = tmp_path / "hf"
    model = write_source(source, safe=safe)
    convert_encoder(source, tmp_path / "one")
    (source / ("model.safetensors" if safe else "pytorch_model.bin")).unlink()
    save_model(model, source, safe, max_shard_size="20KB")
    assert len([*source.glob("*-of-*")]) > 2
    convert_encoder(source, tmp_path / "several")
    one, several = (
        torch.load(tmp_path / name / "model.pt", weights_only=True)["model"]
        for name in ("one", "several")
    )
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_published_shapes_get_their_architecture(tmp_path):
    config = transformers.RobertaConfig(layer_norm_eps=1e-5).to_dict()
    large = {"num_hidden_layers": 24, "hidden_size": 1024}
    large |= {"intermediate_size": 4096, "num_attention_heads": 16}
    for changed, name in (
        ({}, "roberta_base"),
        (large, "roberta_large"),
        ({"num_hidden_layers": 6}, "roberta"),
        ({"layer_norm_eps": 1e-12}, "roberta_bert"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        assert read_config(tmp_path / "config.json").architecture == name


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_fairseq_train_starts_from_a_converted_encoder(tmp_path, kind):
    write_source(tmp_path / "hf", kind)
    done = convert_encoder(tmp_path / "hf", tmp_path / "encoder")
    pairs = [Example(pair, label) for pair in PAIRS for label in ("bad", "good")]
    binarize({"train": pairs, "valid": pairs}, tmp_path / "encoder", tmp_path / "data")
    flags = fairseq_flags(tmp_path / "data")
    assert ("--separator-token" in flags) == (kind == "roberta")
    ended = train_fast(
        [
            *[tmp_path / "data", *flags, "--arch", done.config.architecture],
            *["--encoder-layers", "3", "--encoder-embed-dim", "32"],
            *["--encoder-ffn-embed-dim", "48", "--encoder-attention-heads", "4"],
            *["--max-positions", "40", "--restore-file"],
            *[tmp_path / "encoder" / "model.pt", "--reset-optimizer"],
            *["--reset-dataloader", "--reset-meters", "--lr", "1e-30"],
            *["--max-update", "1", "--save-dir", tmp_path / "run"],
        ]
    )
    assert ended.returncode == 0, ended.stderr
    start = torch.load(tmp_path / "encoder" / "model.pt", weights_only=True)["model"]
    end = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    for name, tensor in start.items():
        assert torch.equal(tensor, end["model"][name]), name
    saved = vars(end["cfg"]["model"])
    assert saved.get("layer_norm_eps") == (1e-12 if kind == "bert" else None)
