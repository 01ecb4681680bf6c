"""Symbols equal those of fairseq's GPT-2 BPE and of transformers' BERT tokenizer.

One test wants real text and GPT-2's own files: point ``FAIRSEQ_SCL_DATA`` to a folder
with ``gpt2_bpe/encoder.json``, ``gpt2_bpe/vocab.bpe`` and GLUE's ``glue/SST-2``; it is
skipped otherwise.
"""

import json
import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe import GPT2BPE as FairseqGPT2BPE
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq.data.encoders.sentencepiece_bpe import (
    SentencepieceBPE,
    SentencepieceConfig,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from transformers import BertTokenizer, BertTokenizerFast

from fairseq_scl.data.tokenizers import GPT2BPE, WordPiece, load_tokenizer
from fairseq_scl.data.vocabulary_files import (
    AddedTokenSettings,
    GPT2Settings,
    WordPieceSettings,
    byte_symbols,
    number_pieces,
    read_merges,
    read_word_pieces,
)
from fairseq_scl.errors import InputError

MERGES = [
    *[("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("i", "n"), ("in", "g")],
    *[("Ġ", "s"), ("1", "2"), ("'", "s"), ("n", "'"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ")],
    *[("Ã", "©"), ("a", "a"), ("aa", "aa"), ("<", "/"), ("</", "s"), ("</s", ">")],
    *[("<", "m"), ("ä", "½"), ("ä½", "ł"), ("ð", "Ł"), ("ðŁ", "ĺ")],
]
PIECES = [
    *["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    *"abcdefghijklmnopqrstuvwxyzABCSEP0123456789éßσς",
    *["##" + character for character in "abcdefghijklmnopqrstuvwxyzE0123456789éß"],
    *["the", "##ing", "sep", "mask", "cafe", "café", "cafe\u0301", "film"],
    *[".", ",", "!", "'", "-", "<", ">", "/", "[", "]", "你", "好", "😀", "￥"],
]
HARD_LINES = [
    "",
    " ",
    "the  three   thing's\tthings\n in  ",
    "  the end of it all 1212 12a1",
    "[SEP] [CLS][MASK] [UNK] [unused0] [sep]",
    "<s> a </s> b <mask> <pad> <unk></s></s><|endoftext|>",
    "Café CAFÉ cafe\u0301 naïve Å A\u030a İstanbul ﬁlm ß ẞ",
    "你好, world。 ￥1２ 日本語 한국어 ไทย עברית",
    "bell\x07 nul\x00 \ufffd bom\ufeff soft\xad zero\u200bwidth",
    "joined\u200d line\u2028paragraph\u2029 file\x1cseparator next\x85line",
    "😀😀 👩‍👩‍👧 ♥️ e😀e",
    "don't can't I'LL we'd 'tis rock'n'roll -- ... ?!",
    "a" * 99 + " " + "a" * 100 + " " + "a" * 101,
    "\u00a0\u3000\u2009 x \u1680",
]

PLAIN_LINES = [line for line in HARD_LINES if "[SEP]" not in line]


@pytest.fixture(scope="module")
def bpe_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny bpe")
    pieces = sorted(number_pieces(MERGES))
    # Ids in another order than pieces and merges: they must be looked up.
    encoder = {piece: 1000 - number for number, piece in enumerate(pieces)}
    (folder / "encoder.json").write_text(json.dumps(encoder))
    lines = [f"{a} {b}" for a, b in MERGES]
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *lines, ""]))
    return folder


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny vocabulary") / "vocab.txt"
    path.write_text("\n".join([*PIECES, ""]), encoding="utf-8")
    return path


def word_piece(path, lowercase=True, strip=None, chinese=True, added=UNSET):
    settings = WordPieceSettings(lowercase, strip, chinese, False, added)
    return WordPiece(read_word_pieces(path), settings)


def fairseq_bpe(folder):
    return FairseqGPT2BPE(
        SimpleNamespace(
            gpt2_encoder_json=str(folder / "encoder.json"),
            gpt2_vocab_bpe=str(folder / "vocab.bpe"),
        )
    )


def assert_same_as_fairseq(folder, lines):
    theirs = fairseq_bpe(folder)
    ours = load_tokenizer(folder)
    assert ours.encode_lines(lines) == [theirs.encode(line).split() for line in lines]


def test_gpt2_gives_the_ids_of_fairseq_on_hard_lines(bpe_files):
    long = " ".join(f"the{n}" for n in range(10_000))
    assert_same_as_fairseq(bpe_files, [*HARD_LINES, long])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"])), max_size=5))
def test_gpt2_gives_the_ids_of_fairseq_on_any_text(bpe_files, lines):
    assert_same_as_fairseq(bpe_files, lines)


def test_gpt2_gives_the_ids_of_fairseq_on_real_lines():
    data = os.environ.get("FAIRSEQ_SCL_DATA")
    if not data:
        pytest.skip("set FAIRSEQ_SCL_DATA to a folder with GPT-2's files and SST-2")
    with open(Path(data, "glue", "SST-2", "train.tsv"), encoding="utf-8") as file:
        lines = [line.split("\t")[0] for line in islice(file, 1, 3001)]
    assert len(lines) >= 2000
    assert_same_as_fairseq(Path(data, "gpt2_bpe"), [*lines, *HARD_LINES])
    merges = read_merges(Path(data, "gpt2_bpe", "vocab.bpe"))
    official = json.loads(Path(data, "gpt2_bpe", "encoder.json").read_text())
    assert number_pieces(merges) == official


def test_byte_symbols_are_those_of_fairseq():
    assert byte_symbols() == list(bytes_to_unicode().values())


@pytest.mark.parametrize(
    ("lowercase", "strip", "chinese"),
    [
        *[(True, None, True), (False, None, True), (True, True, True)],
        *[(True, False, True), (True, True, False), (True, False, False)],
    ],
)
def test_word_pieces_are_those_of_transformers_on_hard_lines(
    vocabulary_file, lowercase, strip, chinese
):
    theirs = BertTokenizerFast(
        str(vocabulary_file),
        do_lower_case=lowercase,
        strip_accents=strip,
        tokenize_chinese_chars=chinese,
    )
    ours = word_piece(vocabulary_file, lowercase, strip, chinese)
    lines = [*PLAIN_LINES, " ".join(f"Thé{n}ing" for n in range(10_000))]
    assert ours.encode_lines(lines) == [theirs.tokenize(line) for line in lines]


def test_word_pieces_are_those_of_fairseq_but_for_decomposed_letters(vocabulary_file):
    """``--bpe bert`` of fairseq has transformers' other tokenizer, which composes."""
    for lowercase in (True, False):
        theirs = BertTokenizer(str(vocabulary_file), do_lower_case=lowercase)
        found = word_piece(vocabulary_file, lowercase).encode_lines(PLAIN_LINES)
        pairs = zip(PLAIN_LINES, found, strict=True)
        other = [line for line, pieces in pairs if pieces != theirs.tokenize(line)]
        assert other == [] if lowercase else all("\u0301" in one for one in other)


def test_names_of_special_tokens_in_a_text_stay_text(vocabulary_file, bpe_files):
    assert word_piece(vocabulary_file).encode_lines(["a [SEP] [MASK]", "</s>"]) == [
        ["a", "[", "sep", "]", "[", "mask", "]"],
        ["<", "/", "s", ">"],
    ]
    special = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    for symbols in load_tokenizer(bpe_files).encode_lines(sorted(special)):
        assert symbols
        assert not special & set(symbols)


def test_a_batch_gives_what_single_lines_give(vocabulary_file, monkeypatch):
    monkeypatch.setattr("fairseq_scl.data.tokenizers.LINES_AT_ONCE", 3)
    tokenizer = word_piece(vocabulary_file, False)
    single = [tokenizer.encode_lines([line])[0] for line in HARD_LINES]
    assert tokenizer.encode_lines(HARD_LINES) == single
    assert tokenizer.encode_lines([]) == []


def saved_and_loaded(tokenizer, folder):
    """Return the tokenizer that comes back from a folder, after comparing the two."""
    tokenizer.save(folder)
    assert {path.name for path in folder.iterdir()} == set(tokenizer.file_names)
    loaded = load_tokenizer(folder)
    assert loaded.kind == tokenizer.kind
    assert loaded.pair_separator == tokenizer.pair_separator
    assert loaded.encode_lines(HARD_LINES) == tokenizer.encode_lines(HARD_LINES)
    return loaded


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_piece_survives_saving(vocabulary_file, tmp_path, lowercase):
    loaded = saved_and_loaded(word_piece(vocabulary_file, lowercase), tmp_path)
    assert (loaded.kind, loaded.pair_separator) == ("wordpiece", False)
    settings = json.loads((tmp_path / "tokenizer_settings.json").read_text())
    assert settings["lowercase"] is lowercase


def test_gpt2_survives_saving_and_fairseq_reads_its_files(bpe_files, tmp_path):
    loaded = saved_and_loaded(load_tokenizer(bpe_files), tmp_path)
    assert (loaded.kind, loaded.pair_separator) == ("gpt2", True)
    assert_same_as_fairseq(tmp_path, HARD_LINES)


def test_added_tokens_survive_saving(vocabulary_file, bpe_files, tmp_path):
    added = [
        {"content": "Covid19", "normalized": False, "single_word": True},
        {"content": "@user", "normalized": True, "lstrip": True},
    ]
    line = "the Covid19 covid19 xCovid19 @user@USER"
    added = [AddedTokenSettings(**token) for token in added]
    words = word_piece(vocabulary_file, added=added)
    words.save(tmp_path / "words")
    (found,) = load_tokenizer(tmp_path / "words").encode_lines([line])
    assert [found.count(one) for one in ("Covid19", "@user", "c")] == [1, 2, 1]
    pieces = json.loads((bpe_files / "encoder.json").read_text())
    pieces |= {"Covid19": 2000, "@user": 3000}
    files = bpe_files / "vocab.bpe"
    settings = GPT2Settings(pair_separator=True, added_tokens=added)
    saved = GPT2BPE(pieces, read_merges(files), settings)
    saved.save(tmp_path / "bytes")
    (found,) = load_tokenizer(tmp_path / "bytes").encode_lines([line])
    assert [found.count(one) for one in ("2000", "3000")] == [1, 1]


def train_sentencepiece(folder, sentences, size):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=size,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=9,
    )
    return folder


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a sentencepiece encoder")
    sentences = ["the film", "a film , the actor", "naïve café"] * 20
    return train_sentencepiece(folder, sentences, 30)


def test_sentencepiece_gives_the_pieces_of_fairseq(sentencepiece_folder, tmp_path):
    path = sentencepiece_folder / "sentencepiece.bpe.model"
    theirs = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=str(path)))
    tokenizer = load_tokenizer(sentencepiece_folder)
    assert (tokenizer.kind, tokenizer.pair_separator) == ("sentencepiece", True)
    # Not "</s>": fairseq takes that text, unknown to this model, for a special symbol.
    lines = ["the film , a café", "  naive   ACTOR!", "", "< / s > 你好 x"]
    dictionary = Dictionary()
    for symbol in sorted(tokenizer.symbols):
        dictionary.add_symbol(symbol)
    ours = tokenizer.encode_lines(lines)
    for line, symbols in zip(lines, ours, strict=True):
        wanted = dictionary.encode_line(
            theirs.encode(line), append_eos=False, add_if_not_exist=False
        )
        assert [dictionary.index(symbol) for symbol in symbols] == wanted.tolist()
    saved_and_loaded(tokenizer, tmp_path)


def test_unknown_text_cannot_forge_a_special_symbol_of_sentencepiece(tmp_path):
    train_sentencepiece(tmp_path, ["abab ab"] * 9, 8)
    (symbols,) = load_tokenizer(tmp_path).encode_lines(["ab</s>"])
    assert "</s>" not in symbols
    assert symbols[-1] == "<unk>"


NOT_UTF8 = b"\n\x09\n\5<unk>\x18\2\n\3\n\1\xff"  # two pieces


@pytest.mark.parametrize("content", [b"", b"spm", b"\n\0", NOT_UTF8])
def test_a_damaged_sentencepiece_model_is_refused_by_name(tmp_path, content):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(content)
    with pytest.raises(InputError, match=r"sentencepiece\.bpe\.model is not a Sent"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("place", ["dict.txt", "input0/dict.txt"])
def test_a_dictionary_of_another_tokenizer_is_refused(
    bpe_files, sentencepiece_folder, vocabulary_file, tmp_path, place
):
    tokenizers = {
        "wordpiece": word_piece(vocabulary_file),
        "gpt2": load_tokenizer(bpe_files),
        "sentencepiece": load_tokenizer(sentencepiece_folder),
    }
    for name, tokenizer in tokenizers.items():
        folder = tmp_path / name
        (folder / place).parent.mkdir(parents=True)
        tokenizer.save(folder)
        for other in tokenizers.values():
            # What no tokenizer makes: fairseq's fillers, and CamemBERT's three.
            symbols = [*sorted(other.symbols), "madeupword0000", "<s>NOTUSED"]
            lines = "".join(f"{symbol} 1\n" for symbol in symbols)
            (folder / place).write_text(lines, encoding="utf-8")
            if other is tokenizer:
                assert load_tokenizer(folder).kind == name
                continue
            with pytest.raises(InputError, match=f"{place} belongs to another"):
                load_tokenizer(folder)


def test_a_folder_without_tokenizer_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"encoder\.json and vocab\.bpe.*https://"):
        load_tokenizer(tmp_path)


GPT2_SETTINGS = {"kind": "gpt2", "pair_separator": True}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "kind"),
        ([], "array"),
        ({"kind": ["gpt2"]}, "kind; gpt2"),
        (GPT2_SETTINGS | {"kind": "a"}, "kind; 'a'; wordpiece, gpt2, sentencepiece"),
        ({"kind": "wordpiece"}, "lowercase"),
        (GPT2_SETTINGS | {"pair_separator": "no"}, "pair_separator; 'no'"),
        (GPT2_SETTINGS | {"added_tokens": [{"contents": "a"}]}, "[0]; contents"),
        (GPT2_SETTINGS | {"added_tokens": [5]}, "added_tokens[0]; 5"),
        (GPT2_SETTINGS | {"added_tokens": 5}, "added_tokens; 5"),
        (GPT2_SETTINGS | {"added_tokens": [{"content": 5}]}, "content; 5"),
    ],
)
def test_damaged_settings_are_refused(bpe_files, tmp_path, settings, words):
    load_tokenizer(bpe_files).save(tmp_path)
    (tmp_path / "tokenizer_settings.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"tokenizer_settings\.json: ") as error:
        load_tokenizer(tmp_path)
    assert all(word in str(error.value) for word in words.split("; "))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[UNK]\na\nb\na\n", "line 4: the piece 'a' is already in line 2"),
        (b"a\nb\n", r"lacks the line \[UNK\]"),
        (b"", r"vocab\.txt is empty"),
        (b"[UNK]\n\xff\n", r"vocab\.txt, line 2 is not UTF-8 \(byte 1 of the line"),
    ],
)
def test_a_bad_word_piece_vocabulary_is_refused(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_word_pieces(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.bpe", "#version: 0.2\nt h\nthe\n", "line 3 is 'the'"),
        ("vocab.bpe", "#version: 0.2\nq q\n", "'q' and 'q'.*lacks an id"),
        ("encoder.json", "[1]", "encoder.json: expected object"),
        ("encoder.json", '{"a": 1}', "lacks an id for the byte symbol"),
        ("encoder.json", '{"a": -1}', "a.*: expected int >= 0, found.*-1"),
        ("encoder.json", "{", "as JSON"),
    ],
)
def test_bad_bpe_files_are_refused(bpe_files, tmp_path, name, content, message):
    for file in ("encoder.json", "vocab.bpe"):
        text = content if file == name else (bpe_files / file).read_text()
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


def test_half_a_surrogate_pair_is_refused_by_its_line(bpe_files):
    with pytest.raises(InputError, match="sentence 2 has an unpaired surrogate"):
        load_tokenizer(bpe_files).encode_lines(["a", "b\udcff"])
