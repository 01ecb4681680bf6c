"""Training a translation model: the corpus, the average, and the whole script."""

import gzip
import json
import os
import random
import shutil

import pytest
import sentencepiece
import torch

from fairseq_scl.augment import parallel_text
from fairseq_scl.augment.parallel_text import clean, make_pieces, read_lines
from fairseq_scl.augment.segment import guess_bpe, load_segmenter
from fairseq_scl.augment.translation_model import average, export_translation
from fairseq_scl.errors import InputError
from helpers import ROOT, run_process

SCRIPTS = ROOT / "scripts"
ENGLISH = ["a", "the", "red", "green", "dog", "cat", "man", "runs", "on", "grass"]
GERMAN = [f"{word}ü" for word in ENGLISH]
SPLITS = {"train": "train", "valid": "val", "test": "test_2016"}
PAIR = ("en", "de")


def write_corpus(folder, train=120, packed=("train",)):
    """Sentences and their word-by-word translations."""
    drawn = random.Random(0)
    folder.mkdir(parents=True)
    for split, count in {"train": train, "val": 8, "test_2016": 6}.items():
        rows = [drawn.choices(range(10), k=drawn.randint(2, 7)) for _ in range(count)]
        for language, words in (("en", ENGLISH), ("de", GERMAN)):
            text = "".join(" ".join(words[n] for n in row) + ".\n" for row in rows)
            if split in packed:
                content = gzip.compress(text.encode())
                (folder / f"{split}.{language}.gz").write_bytes(content)
            else:
                (folder / f"{split}.{language}").write_text(text, "utf-8")
    return folder


def append(folder, name, line):
    path = folder / name
    path.write_bytes(path.read_bytes() + line)


def test_both_languages_are_cut_by_one_vocabulary(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    counts = make_pieces(corpus, SPLITS, PAIR, 60, tmp_path / "text")
    assert counts == {"train": 120, "valid": 8, "test": 6}
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(tmp_path / "text" / "spm.model")
    )
    assert model.get_piece_size() == 60
    for split, name in SPLITS.items():
        for language in PAIR:
            pieces = read_lines(tmp_path / "text" / f"{split}.{language}")
            packed = split == "train"
            plain = read_lines(corpus / f"{name}.{language}{'.gz' * packed}")
            assert [model.decode(line.split(" ")) for line in pieces] == plain


def test_pairs_with_an_empty_side_are_left_out_of_training_only(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", packed=())
    for split in SPLITS.values():
        append(corpus, f"{split}.en", b" \n")
        append(corpus, f"{split}.de", b"Hund\x0b \xe2\x80\xa8\n")
    counts = make_pieces(corpus, SPLITS, PAIR, 60, tmp_path / "text")
    assert counts == {"train": 120, "valid": 9, "test": 7}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("val.en", b"one more\n", r"val\.en has 9 lines, but .*val\.de has 8: each"),
        ("test_2016.de", b"\xff\n", r"test_2016\.de, line 7 is not UTF-8 "),
        ("train.en.gz", b"no gzip", r"^cannot read .*train\.en\.gz: "),
    ],
)
def test_a_wrong_corpus_is_one_sentence(tmp_path, name, line, message):
    corpus = write_corpus(tmp_path / "corpus")
    append(corpus, name, line)
    with pytest.raises(InputError, match=message):
        make_pieces(corpus, SPLITS, PAIR, 60, tmp_path / "text")
    assert not (tmp_path / "text").exists()


def test_missing_text_and_too_little_text_are_named(tmp_path, refusal):
    corpus = write_corpus(tmp_path / "corpus")
    command = ["translation", "pieces", "--from", corpus, "--test", "test_2016"]
    command += ["--source", "en", "--target", "de", "--to", tmp_path / "text"]
    missing = f"{corpus}/valid.en (or valid.en.gz)"
    assert refusal(*command) == f"fairseq-scl: error: missing file: {missing}"
    error = refusal(*command, "--valid", "val", "--pieces", "5000")
    assert "sentencepiece cannot learn --pieces 5000 from this text: " in error


def test_pairs_that_are_not_translations_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_text, "VALID_EVERY", 7)
    rows = [("a b c", "x y"), ("a b", "x y z"), ("a b", "x y z w"), ("", "x")]
    rows += [("a " * 250, "x " * 250), ("a " * 251, "x " * 251), ("a", "x")]
    for side, language in enumerate(PAIR):
        text = "".join(row[side] + "\n" for row in rows)
        (tmp_path / f"train.{language}").write_text(text, "utf-8")
    counts = clean(tmp_path, PAIR, tmp_path / "out")
    assert counts == {"train": 3, "valid": 1, "left out": 3}
    assert read_lines(tmp_path / "out" / "train.de")[:2] == ["x y", "x y z"]
    assert read_lines(tmp_path / "out" / "valid.en") == ["a"]
    append(tmp_path, "train.en", b"more\n")
    with pytest.raises(InputError, match="have different numbers of lines"):
        clean(tmp_path, PAIR, tmp_path / "out2")


def checkpoint(path, weight):
    place = {"data": "/a/secret/place", "save_dir": "/a/secret/place"}
    task = {"_name": "translation", **place}
    model = {"_name": "transformer_tiny", **place}
    torch.save(
        {
            "cfg": {"task": task, "model": model, "checkpoint": place},
            "model": {"w": torch.tensor(weight, dtype=torch.float16)},
            "optimizer_history": [{"num_updates": 1}, {"num_updates": 2}],
            "last_optimizer_state": {"big": torch.zeros(9)},
            "extra_state": {"train_iterator": {"epoch": 3}, "val_loss": 1.0},
        },
        path,
    )
    return path


def test_the_average_is_the_mean_and_forgets_where_it_was_made(tmp_path):
    paths = [checkpoint(tmp_path / f"{n}.pt", [float(n), 1.0]) for n in (1, 2, 4)]
    state = average(paths)
    assert torch.equal(state["model"]["w"], torch.tensor([7 / 3, 1.0]))
    assert state["model"]["w"].dtype == torch.float32
    assert state["last_optimizer_state"] is None
    assert "secret" not in str(state)
    checkpoint(paths[1], [1.0])
    with pytest.raises(InputError, match=r"2\.pt and .*1\.pt have different weights"):
        average(paths)


def test_the_last_checkpoints_are_those_of_most_updates(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "spm.model").write_bytes(b"pieces")
    (tmp_path / "data").mkdir()
    arguments = (tmp_path / "data", tmp_path / "spm.model", tmp_path / "out")
    with pytest.raises(InputError, match="lacks dict"):
        export_translation(tmp_path / "run", 2, *arguments)
    for language in PAIR:
        (tmp_path / "data" / f"dict.{language}.txt").write_text("a 1\n", "utf-8")
    with pytest.raises(InputError, match=r"missing checkpoint: .*run/checkpoint_last"):
        export_translation(tmp_path / "run", 2, *arguments)
    for name in ("best", "last", "2_1000", "1_900", "10_1100"):
        checkpoint(tmp_path / "run" / f"checkpoint_{name}.pt", [1.0])
    names = export_translation(tmp_path / "run", 2, *arguments)
    assert names == ["checkpoint_2_1000.pt", "checkpoint_10_1100.pt"]
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    parts = ["dict.de.txt", "dict.en.txt", "manifest.json", "model.pt", "spm.model"]
    assert made == parts
    best = tmp_path / "run" / "checkpoint_best.pt"
    assert export_translation(best, 2, *arguments) == ["checkpoint_best.pt"]


def run(script, *options, **settings):
    if shutil.which("fairseq-scl") is None:
        pytest.skip("fairseq-scl is not on the PATH")
    return run_process(
        *["bash", SCRIPTS / script, *options],
        env={**os.environ, **{name: str(value) for name, value in settings.items()}},
    )


def toy_run(tmp_path, updates):
    corpus = tmp_path / "a corpus"
    if not corpus.exists():
        write_corpus(corpus)
    done = run(
        *("train_translation.sh", "--cpu"),
        **{"CORPUS": corpus, "SRC": "en", "TGT": "de", "TO": tmp_path / "en de"},
        **{"VALID": "val", "TEST": "test_2016", "PIECES": 60, "MAX_TOKENS": 300},
        **{"DIM": 8, "FFN": 8, "LAYERS": 1, "HEADS": 1, "BEAM": 1},
        **{"UPDATES": updates, "EVERY": 2, "AVERAGE": 2},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path / "en de", done.stdout + done.stderr


def test_the_script_goes_from_a_corpus_to_a_published_folder(tmp_path, fast_path):
    folder, output = toy_run(tmp_path, 4)
    made = sorted(path.name for path in folder.iterdir())
    parts = ["dict.de.txt", "dict.en.txt", "manifest.json", "model.pt", "spm.model"]
    assert made == ["bleu.json", *parts, "test.de"]
    bleu = json.loads((folder / "bleu.json").read_text("utf-8"))
    assert bleu["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert bleu["text"] in output
    assert len(read_lines(folder / "test.de")) == 6
    assert guess_bpe(folder) == "sentencepiece"
    pieces = load_segmenter(None, "sentencepiece", "en", folder).encode("a red dog.")
    known = (folder / "dict.en.txt").read_text("utf-8").split("\n")
    assert {f"{piece} " for piece in pieces} <= {
        line[: line.find(" ") + 1] for line in known
    }


@pytest.mark.slow
def test_the_script_resumes(tmp_path):
    folder, _ = toy_run(tmp_path, 4)
    text = tmp_path / "en de.work" / "text" / "spm.model"
    before = text.stat().st_mtime_ns, (folder / "model.pt").read_bytes()
    folder, output = toy_run(tmp_path, 8)
    assert "@ 4 updates" in output
    assert text.stat().st_mtime_ns == before[0]
    assert (folder / "model.pt").read_bytes() != before[1]


@pytest.mark.parametrize("script", ["train_translation.sh", "train_wmt18_de_en.sh"])
def test_settings_that_are_missing_are_named(script):
    done = run(script, CORPUS="", SRC="en", TGT="de", TO="somewhere")
    assert done.returncode != 0
    assert "CORPUS: " in done.stderr


@pytest.mark.parametrize("script", ["train_translation.sh", "train_wmt18_de_en.sh"])
def test_a_script_ends_at_the_step_that_fails(tmp_path, script):
    names = [f"corpus/{kind}.{lang}" for kind in ("train", "test") for lang in PAIR]
    names += [f"to.work/{kind}.{lang}" for kind in ("tokens", "pieces/train", "text/x")
              for lang in PAIR]  # fmt: skip
    for name in (*names, "to.work/bpecodes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, status in (("fairseq-preprocess", 3), ("fairseq-train", 0)):
        command = tmp_path / name
        command.write_text(f"#!/usr/bin/env bash\necho {name}\nexit {status}\n")
        command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    folders = {"CORPUS": tmp_path / "corpus", "TO": tmp_path / "to"}
    done = run(script, SRC="en", TGT="de", PATH=path, **folders)
    assert (done.returncode, done.stdout) == (3, "fairseq-preprocess\n")


@pytest.mark.slow
def test_the_recipe_of_wmt18_goes_through_on_toy_text(tmp_path):
    if not (shutil.which("sacremoses") and shutil.which("subword-nmt")):
        pytest.skip("sacremoses or subword-nmt is not on the PATH")
    corpus = write_corpus(tmp_path / "corpus", train=300, packed=())
    for language in PAIR:
        (corpus / f"test_2016.{language}").rename(corpus / f"test.{language}")
    tiny = ["--arch", "transformer", "--max-update", "4", "--cpu", "--num-workers", "0"]
    tiny += ["--required-batch-size-multiple", "1"]  # no batch of fewer than 8 else
    for side in ("encoder", "decoder"):
        for flag in ("layers", "embed-dim", "ffn-embed-dim", "attention-heads"):
            tiny += [f"--{side}-{flag}", "8" if "dim" in flag else "1"]
    done = run(
        *("train_wmt18_de_en.sh", *tiny),
        **{"CORPUS": corpus, "TO": tmp_path / "de-en", "MERGES": 40, "JOBS": 1},
        **{"PRECISION": "", "UPDATE_FREQ": 1},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "de-en"
    assert guess_bpe(folder) == "subword_nmt"
    assert len(read_lines(folder / "test.en")) == 6
    assert len(read_lines(tmp_path / "de-en.work" / "text" / "valid.de")) == 3
