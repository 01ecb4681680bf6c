"""Classifiers to ``transformers`` and back: the same logits from the same text."""

import json
import os
import re
import shutil

import pytest
import torch
import transformers
from fairseq.data import Dictionary
from safetensors.torch import load_file, save_file

from fairseq_scl.cli import main
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert import huggingface_tokenizer
from fairseq_scl.data.tokenizers import GPT2BPE
from fairseq_scl.data.vocabulary_files import GPT2Settings, number_pieces
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.huggingface import convert_classifier, export_huggingface
from fairseq_scl.inference.model_card import Training, model_card
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, logits
from helpers import ROOT
from helpers.encoders import toy_data, toy_model, trained
from helpers.huggingface import MERGES, write_source, write_tokenizer_json
from helpers.outputs import full_disk
from helpers.refusals import refused

KINDS = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
}
LABELS = ["no", "may be", "yes"]
# White space of many kinds, control characters, and what looks like a special token.
SENTENCES = [
    *("the film", "a gripping , beautifully acted film !", "x", "The FILM isn't bad"),
    *("  two  blanks\tand\u3000tabs \n", "a\x1cb\x07 c\x85d", "naïve café 你好 😀"),
    *("[SEP] </s> the <mask> [MASK] <s>", "the\u00a0film\u200b."),
]
PAIRS = [
    *(("the film", "a film ."), ("a", "beautifully acted the film ! !")),
    *(("x", " x  y "), ("the </s> film", "[SEP] a")),
]


def write_classifier(folder, kind, **settings):
    """Write a random classifier as transformers does, and return it."""
    names = dict(enumerate(LABELS))
    return write_source(folder, kind, KINDS[kind], id2label=names, **settings)


def our_logits(folder, examples):
    classifier = load_classifier(folder)
    return logits(classifier, encode(classifier, examples)[0])


def their_logits(folder, examples, at_once=True, **arguments):
    """Return the logits of the auto classes, in one padded batch or one by one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder).eval()
    chunks = [examples] if at_once else [[example] for example in examples]
    found = []
    for chunk in chunks:
        columns = map(list, zip(*chunk, strict=True))
        batch = tokenizer(*columns, padding=True, return_tensors="pt", **arguments)
        with torch.no_grad():
            found.append(model(**batch).logits)
    return torch.cat(found)


def same(found, expected):
    assert expected.std(dim=0).min() > 1e-3  # else nothing is compared
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", [False, True], ids=["sentences", "pairs"])
@pytest.mark.parametrize("kind", KINDS)
def test_out_and_in_again_the_logits_stay(tmp_path, kind, pair):
    """From transformers (token types off), out, and in once more."""
    types = {"type_vocab_size": 1} if pair else {}
    source = write_classifier(tmp_path / "source", kind, **types)
    _, read = convert_classifier(tmp_path / "source", tmp_path / "model", pair=pair)
    assert (read.labels, read.max_positions) == (LABELS, 40)
    examples = PAIRS if pair else [(sentence,) for sentence in SENTENCES]
    expected = our_logits(tmp_path / "model", examples)

    export_huggingface(tmp_path / "model", tmp_path / "out")
    for at_once in (True, False):
        same(their_logits(tmp_path / "out", examples, at_once), expected)
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["architectures"] == [KINDS[kind]]
    assert config["layer_norm_eps"] == source.config.layer_norm_eps

    convert_classifier(tmp_path / "out", tmp_path / "again", pair=pair)
    same(our_logits(tmp_path / "again", examples), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_of_transformers_keeps_its_logits(tmp_path, kind):
    write_classifier(tmp_path / "source", kind)
    write_tokenizer_json(tmp_path / "source", ["<user>", "a film"])
    config = json.loads((tmp_path / "source" / "config.json").read_text("utf-8"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "source"
    )
    model.resize_token_embeddings(config["vocab_size"] + 2)
    model.save_pretrained(tmp_path / "source")
    examples = [("the film",), ("acted , the <user> film . !",), ("x a film",)]
    convert_classifier(tmp_path / "source", tmp_path / "model")
    found = our_logits(tmp_path / "model", examples)
    same(found, their_logits(tmp_path / "source", examples))
    export_huggingface(tmp_path / "model", tmp_path / "out")
    same(their_logits(tmp_path / "out", examples), found)


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_a_trained_model_and_the_pipeline(tmp_path, pairs):
    run, folder, _ = trained(pairs)
    checkpoint = folder / "checkpoint_best.pt"
    arguments = ["export", "--format", "huggingface", "--to", str(tmp_path / "out")]
    source = ["--checkpoint", str(checkpoint), "--data", str(run.data)]
    assert main([*arguments, *source]) == 0
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert main([*arguments, "--model", str(toy_model(pairs))]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    examples = PAIRS if pairs else [(sentence,) for sentence in SENTENCES]
    ours = our_logits(toy_model(pairs), examples)
    theirs = their_logits(tmp_path / "out", examples)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    labels = load_classifier(toy_model(pairs)).labels
    classify = transformers.pipeline("text-classification", str(tmp_path / "out"))
    inputs = [{"text": a, "text_pair": b} for a, b in examples] if pairs else SENTENCES
    for row, answer in zip(ours.softmax(dim=1), classify(inputs), strict=True):
        assert answer["label"] == labels[int(row.argmax())]
        assert answer["score"] == pytest.approx(float(row.max()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_long_inputs_are_cut_at_the_same_length(tmp_path, kind):
    """transformers keeps the last special token, we cut it off with the rest."""
    write_classifier(tmp_path / "source", kind)
    convert_classifier(tmp_path / "source", tmp_path / "model")
    export_huggingface(tmp_path / "model", tmp_path / "out")
    text = " ".join("abcdefgh" * 10)
    (ours,), cut = encode(load_classifier(tmp_path / "model"), [(text,)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = tokenizer(text, truncation=True)["input_ids"]
    assert len(ours) == len(theirs) == 40
    assert cut == 1
    assert theirs[-1] == tokenizer.sep_token_id
    # 38 pieces and both ends: as long as can be, and whole.
    text = " ".join("x" * 38) if kind == "bert" else "x" * 38
    same_length = [(text,), ("the film",)]
    same(
        their_logits(tmp_path / "out", same_length),
        our_logits(tmp_path / "model", same_length),
    )


def test_a_symbol_that_the_dictionary_lacks_is_unknown_there_too(tmp_path):
    """As of a dictionary made of the training text alone."""
    write_classifier(tmp_path / "source", "roberta")
    convert_classifier(tmp_path / "source", tmp_path / "model")
    classifier = load_classifier(tmp_path / "model")
    number = str(classifier.tokenizer.encoder["Ġfil"])
    symbols = classifier.dictionary.symbols
    symbols[symbols.index(number)] = "nothing"
    classifier.dictionary.indices.pop(number)
    vocabulary = huggingface_tokenizer.new_vocabulary(
        classifier.tokenizer, classifier.dictionary, tmp_path
    )
    assert vocabulary.rows[vocabulary.ids["Ġfil"]] == classifier.dictionary.unk()
    assert vocabulary.rows[: len(symbols)] == list(range(len(symbols)))


def test_bytes_that_the_dictionary_lacks_always_get_the_same_ids():
    settings = GPT2Settings(pair_separator=True)
    tokenizer = GPT2BPE(number_pieces(MERGES), MERGES, settings)
    dictionary = Dictionary(extra_special_symbols=["<mask>"])
    number = huggingface_tokenizer.new_vocabulary
    one, two = (number(tokenizer, dictionary, "m") for _ in range(2))
    assert list(one.ids) == list(two.ids)


def test_whitespace_is_defined_as_in_python():
    inside = huggingface_tokenizer.Regex(f"[{huggingface_tokenizer.BLANKS}]")
    rule = huggingface_tokenizer.normalizers.Replace(inside, "")
    every = [chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000]
    assert rule.normalize_str("".join(every)) == "".join(
        character for character in every if not character.isspace()
    )


def test_the_model_card_has_labels_checksums_and_the_record(tmp_path):
    model = shutil.copytree(toy_model(), tmp_path / "model")
    (model / "manifest.json").unlink()
    settings = json.loads((model / "classifier.json").read_text("utf-8"))
    notes = settings["training"]
    assert notes["criterion"] == "sentence_prediction_scl"
    assert (notes["scl_lambda"], notes["scl_temperature"]) == (0.9, 0.3)
    checkpoint = notes["checkpoint_update"]
    assert checkpoint == best_validation(trained()[2].valid).update
    notes |= {"updates": 999, "seed": 1, "test": {"correct": 3, "total": 8}}
    (model / "classifier.json").write_text(json.dumps(settings), "utf-8")
    export_huggingface(model, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| 0 | negative |" in card
    assert "test set: 37.5% (3 of 8)" in card
    assert notes["data"] in card
    assert f"|lambda:0.9|tau:0.3|updates:999|checkpoint:{checkpoint}|" in card
    assert f"data:{notes['data'][:8]}|model:" in card
    code = card.split("```python\n")[1].split("```")[0]
    space = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "out")), space)
    assert space["classify"]("good")[0]["label"] in ("negative", "positive")


@pytest.mark.parametrize(
    ("training", "made"),
    [
        (
            Training("sentence_prediction_scl", scl_lambda=0.9),
            "fine-tuned with fairseq-scl (supervised contrastive learning, Gunel et "
            "al., 2021) and exported",
        ),
        (
            Training("sentence_prediction_scl", scl_lambda=0.0),
            "fine-tuned with fairseq-scl and exported",
        ),
        (
            Training("sentence_prediction"),
            "fine-tuned with fairseq-scl and exported",
        ),
        (Training(), "exported with fairseq-scl"),
    ],
)
def test_the_model_card_names_scl_only_if_it_was_trained_with(training, made):
    checksums = {"model.pt": "0" * 64}
    card = model_card("x", ["a", "b"], False, False, 9, training, checksums)
    assert f"with 2 labels, {made} for `transformers`." in card
    head = "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n"
    tags = "- supervised-contrastive-learning\n" * ("Gunel" in made)
    assert card.startswith(f"{head}- text-classification\n{tags}---\n\n# x\n")


def test_only_a_folder_of_this_kind_is_replaced(tmp_path, run, refusal):
    words = ["export", "--format", "huggingface", "--model", toy_model(), "--to"]
    data = shutil.copytree(toy_data(), tmp_path / "data")
    for target in (data, toy_model()):
        assert "folder" in refusal(*words, target)
    out = tmp_path / "out"
    for _ in range(2):
        status, printed, _ = run(*words, out)
        assert status == 0
        assert f"wrote {out} for transformers" in printed
    (out / "notes.txt").write_text("mine")
    assert "notes.txt" in refusal(*words, out)


@pytest.mark.parametrize("largest", [1000, 10_000])
def test_a_full_disk_leaves_the_older_folder_as_it_was(tmp_path, largest):
    export_huggingface(toy_model(), tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with full_disk(largest), refused("cannot write ", "File too large"):
        export_huggingface(toy_model(), tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]


def test_an_export_that_fails_names_what_the_user_gave(tmp_path, refusal):
    """Not the temporary model folder between the checkpoint and the target."""
    run, folder, _ = trained()
    state = load_checkpoint(folder / "checkpoint_best.pt")
    state["cfg"]["model"].activation_fn = "gelu_accurate"
    checkpoint, out = tmp_path / "other.pt", tmp_path / "out"
    torch.save(state, checkpoint)
    export_huggingface(toy_model(), out)
    before = (out / "manifest.json").read_bytes()
    words = ["export", "--format", "huggingface", "--data", run.data]

    def said(source, target=out):
        line = refusal(*words, "--checkpoint", source, "--to", target)
        assert (out / "manifest.json").read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == ["other.pt", "out"]
        return line.removeprefix("fairseq-scl: error: ")

    assert said(checkpoint).startswith(f"{checkpoint} was trained with --activation-fn")
    inside = run.data / "inside"
    assert said(checkpoint, inside).startswith(
        f"nothing is added to the data folder {run.data}"
    )
    assert not inside.exists()
    under = checkpoint / "new"
    assert said(checkpoint, under).startswith(f"cannot write {under}: ")
    with full_disk(1000):
        full = said(folder / "checkpoint_best.pt")
    assert full.startswith(f"cannot write {out / 'model.pt'}: ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--encoder-only", "--format", "huggingface"], "--encoder-only"),
        ([], "--model needs --format huggingface"),
        (["--format", "huggingface", "--data", "x"], "--data cannot be combined with"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, refusal, more, said):
    out = tmp_path / "out"
    assert said in refusal("export", "--model", toy_model(), "--to", out, *more)
    assert not out.exists()


def test_what_transformers_cannot_compute_is_refused(tmp_path, monkeypatch):
    model = load_classifier(toy_model())
    monkeypatch.setattr(
        "fairseq_scl.inference.huggingface.load_classifier", lambda _: model
    )

    def refusal():
        with pytest.raises(InputError) as error:
            export_huggingface(toy_model(), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(error.value)

    model.exits = {1: "sentence_classification_head_exit_1", 2: model.head}
    assert "exits after the layers 1, 2" in refusal()
    model.exits = {2: model.head}
    tokenizer, model.tokenizer = (
        model.tokenizer,
        type("SP", (), {"kind": "sentencepiece"})(),
    )
    assert "has a sentencepiece tokenizer" in refusal()
    model.tokenizer = tokenizer
    model.separator_token, model.pair = 17, True
    assert "was trained with the token 17" in refusal()
    model.separator_token, model.pair = None, False
    model.model.args.activation_fn = "gelu_accurate"
    assert "--activation-fn gelu_accurate" in refusal()
    model.model.args.activation_fn = "gelu"
    model.model.register_classification_head("another", num_classes=2)
    assert "has classification_heads.another.dense.bias, which Bert" in refusal()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"problem_type": "regression"}, "problem_type: invalid enum value"),
        ({"id2label": ["a", "b", "c"]}, "id2label: expected object"),
        ({"id2label": {"0": "a", "2": "b"}}, "ids from 0 on"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "each label once"),
        ({"id2label": {"0": "a", "1": "<pad>", "2": "b"}}, "'<pad>' is reserved"),
        ({"id2label": {"0": "a"}}, "only one label"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.weight has the shape (3, 32)"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, refusal, change, said):
    source, target = tmp_path / "source", tmp_path / "model"
    write_classifier(source, "bert")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    assert said in refusal("convert", "--classifier", "--from", source, "--to", target)
    assert not target.exists()


def test_a_source_that_is_not_such_a_classifier_is_refused(tmp_path, refusal):
    source = tmp_path / "source"
    write_classifier(source, "bert")
    folders = ["--from", source, "--to", tmp_path / "model"]
    words = ["convert", "--classifier", *folders]
    assert "token type 1" in refusal(*words, "--pair")
    weights = load_file(source / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, source / "model.safetensors")
    assert "lacks the tensor classifier.weight" in refusal(*words)
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refusal(*words)
    assert "--pair needs --classifier" in refusal("convert", "--pair", *folders)


def test_convert_classifier_prints_labels_and_predict_reads_the_folder(tmp_path, run):
    source, target = tmp_path / "source", tmp_path / "model"
    write_classifier(source, "bert")
    _, printed, _ = run("convert", "--classifier", "--from", source, "--to", target)
    assert "labels: no, may be, yes" in printed
    (tmp_path / "texts.txt").write_text("the film\n", "utf-8")
    status, printed, _ = run("predict", "--model", target, tmp_path / "texts.txt")
    assert status == 0
    assert printed.split("\t")[0] in LABELS


def test_the_code_of_the_page_runs(tmp_path):
    """On the toy model, which knows its own words alone."""
    export_huggingface(toy_model(), tmp_path / "out")
    page = (ROOT / "docs" / "huggingface.md").read_text("utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    codes = [code for code in codes if "sentence_transformers" not in code]
    assert len(codes) == 2
    space = {}
    for code in codes:
        exec(code.replace("models/mine-hf", str(tmp_path / "out")), space)
    assert set(space["labels"]) <= {"negative", "positive"}
    same_texts = our_logits(toy_model(), [(text,) for text in space["texts"]])
    torch.testing.assert_close(space["logits"], same_texts, rtol=0, atol=1e-5)
