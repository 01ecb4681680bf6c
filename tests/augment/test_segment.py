"""Text to pieces and back, against fairseq's own encoders and the packages."""

import io
import re
import sys
from argparse import Namespace

import pytest
import sentencepiece
from fairseq.data import encoders
from hypothesis import given
from hypothesis import strategies as st
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from fairseq_scl.augment import segment
from fairseq_scl.augment.bpe import kind_of_bpe, load_bpe
from fairseq_scl.augment.segment import guess_bpe, load_segmenter
from helpers import ROOT
from helpers.refusals import refused

README = ROOT / "README.md"
WORDS = sorted(set(README.read_text("utf-8").split()))
HARD = ["", " ", "a", "é", "🙂🙂", "👩\u200d👩\u200d👧", "naïve café", "x" * 300]
HARD += ["ab" * 40, "don't -- 'quote' \"two\"", "a  b ", " a\tb\r\nc ", "@@ a@@ b"]
HARD += [
    "a\u00a0b\u3000c",
    "</w>",
    "abc</w> d",
    "&amp; &quot;",
    "ﬁ ½ Ⅷ",
    "Müßiggänger, ja?",
]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=30)


def learn():
    """Let subword-nmt learn merges, without the line of the version."""
    words = [word for word in WORDS if len(word) < 20][:400]
    learnt = io.StringIO()
    learn_bpe(io.StringIO(" ".join([*words, "xxxx", "abab", "ababab"])), learnt, 250)
    return learnt.getvalue().splitlines(keepends=True)[1:]


LEARNT = learn()
CODES = {
    "fastbpe": "".join(line.replace("\n", " 7\n") for line in LEARNT),
    "0.2": "#version: 0.2\n" + "".join(LEARNT),
    # The end of a word was a symbol of its own.
    "0.1": re.sub(r"(.+ )(.+)</w>", r"\2 </w>\n\1\2</w>", "".join(LEARNT)),
    # Only the first of two lines counts, in subword-nmt's words "some hacking".
    "twice": "#version: 0.2\n" + "".join(LEARNT[20:40] + LEARNT),
}


def write_codes(folder, kind):
    path = folder / "bpecodes"
    path.write_text(CODES[kind], "utf-8")
    return path


def sentences():
    """Real text: the lines of the README, and words in other company."""
    lines = README.read_text("utf-8").split("\n")
    return [*lines, *(" ".join(WORDS[n::97]) for n in range(97)), *HARD]


def make_folder(folder, bpe):
    if bpe != "sentencepiece":
        write_codes(folder, "fastbpe" if bpe == "fastbpe" else "0.2")
        return folder
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_prefix=str(folder / "spm"),
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder


def fairseqs(tokenizer, bpe, language, folder):
    """fairseq's own way, as ``fairseq-interactive`` goes it."""
    source = Namespace(
        tokenizer=tokenizer,
        source_lang=language,
        target_lang=language,
        bpe=bpe,
        bpe_codes=str(folder / "bpecodes"),
        sentencepiece_model=str(folder / "spm.model"),
    )
    moses, pieces = encoders.build_tokenizer(source), encoders.build_bpe(source)

    def encode(text):
        return pieces.encode(moses.encode(text) if moses else text)

    def decode(text):
        text = pieces.decode(text)
        return moses.decode(text) if moses else text

    return encode, decode


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("tokenizer", [None, "moses"])
@pytest.mark.parametrize("bpe", ["fastbpe", "subword_nmt", "sentencepiece"])
def test_pieces_and_text_are_those_of_fairseqs_encoders(
    tmp_path, tokenizer, bpe, language
):
    if bpe != "sentencepiece":
        pytest.importorskip("fastBPE" if bpe == "fastbpe" else "subword_nmt")
    folder = make_folder(tmp_path, bpe)
    ours = load_segmenter(tokenizer, bpe, language, folder)
    encode, decode = fairseqs(tokenizer, bpe, language, folder)
    for text in sentences():
        pieces = ours.encode(text)
        assert pieces == encode(text).split()
        assert ours.decode(pieces) == decode(" ".join(pieces))
    assert ours.encode("") == []
    assert ours.decode([]) == ""


@pytest.mark.parametrize("bpe", ["fastbpe", "subword_nmt", "sentencepiece"])
def test_ordinary_sentences_come_back_as_they_were(tmp_path, bpe):
    ours = load_segmenter("moses", bpe, "en", make_folder(tmp_path, bpe))
    for text in ("A well-made film, isn't it?", 'He said "no" (twice).'):
        pieces = ours.encode(text)
        assert len(pieces) > len(text.split())
        assert ours.decode(pieces) == text


@pytest.fixture(scope="module")
def fastbpe(tmp_path_factory):
    """The package, and what cuts where it is missing, on the same codes."""
    pytest.importorskip("fastBPE", reason="fastBPE is not installed")
    path = write_codes(tmp_path_factory.mktemp("fastbpe"), "fastbpe")
    package = load_bpe(path, "fastbpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastBPE", None)
        return package, load_bpe(path, "fastbpe")


def test_without_fastbpe_the_pieces_are_the_same(fastbpe):
    package, python = fastbpe
    for text in sentences():
        assert python(text) == package(text)


@given(text=TEXTS)
def test_without_fastbpe_the_pieces_of_any_text_are_the_same(fastbpe, text):
    package, python = fastbpe
    assert python(text) == package(text)


@pytest.mark.parametrize("kind", ["0.2", "0.1", "twice"])
def test_files_of_each_version_of_subword_nmt_are_read_as_it_does(tmp_path, kind):
    cut = load_bpe(write_codes(tmp_path, kind), "subword_nmt")
    theirs = BPE(io.StringIO(CODES[kind]))
    for text in sentences():
        assert cut(text) == theirs.segment(text)


def test_the_kind_is_detected_from_the_files(tmp_path):
    assert guess_bpe(tmp_path) is None
    for kind, bpe in [("fastbpe",) * 2, ("0.2", "subword_nmt"), ("0.1", "subword_nmt")]:
        write_codes(tmp_path, kind)
        assert guess_bpe(tmp_path) == bpe
    (tmp_path / "bpecodes").rename(tmp_path / "code")
    assert guess_bpe(tmp_path) == "subword_nmt"
    assert load_segmenter(None, "subword_nmt", "en", tmp_path).encode("ab") != []
    for name in segment.SENTENCEPIECE_FILES:
        (tmp_path / name).write_bytes(b"")
        with refused("has both code and", "choose one with --bpe"):
            guess_bpe(tmp_path)
        (tmp_path / "code").rename(tmp_path / "aside")
        assert guess_bpe(tmp_path) == "sentencepiece"
        (tmp_path / name).unlink()
        (tmp_path / "aside").rename(tmp_path / "code")
    (tmp_path / "code").write_text("one column\nor four of them\n", "utf-8")
    assert kind_of_bpe(tmp_path / "code") == "subword_nmt"


@pytest.mark.parametrize(
    ("bpe", "content", "message"),
    [
        (
            "fastbpe",
            b"#version: 0.2\na b\n",
            "line 1 is '#version: 0.2', but fastbpe has two symbols and a count; it is "
            "a file for --bpe subword_nmt",
        ),
        (
            "subword_nmt",
            b"a b 3\n",
            "line 1 is 'a b 3', but subword_nmt has two symbols; it is a file for "
            "--bpe "
            "fastbpe",
        ),
        (
            "fastbpe",
            b"a b 3\nc d\n",
            "line 2 is 'c d', but fastbpe has two symbols and a",
        ),
        ("fastbpe", b"a b 3\na b 2\n", "line 2: 'a b 2' occurs twice"),
        (
            "subword_nmt",
            b"#version: 0.2\na\n",
            "line 2 is 'a', but subword_nmt has two",
        ),
        (
            "subword_nmt",
            b"#version: 3.0\n",
            "line 1: version is '3', it must be 0.1 or 0.2",
        ),
        ("subword_nmt", b"#version: 0.2\n", " has no merges"),
        ("fastbpe", b"\xff\xfe", "is not UTF-8, so not a file of BPE codes"),
        ("fastbpe", b"", "line 1 is '', but fastbpe has two symbols and a count"),
    ],
)
def test_a_wrong_file_of_codes_is_one_sentence(tmp_path, bpe, content, message):
    path = tmp_path / "bpecodes"
    path.write_bytes(content)
    with refused(path, message):
        load_segmenter(None, bpe, "en", tmp_path)


def test_each_language_may_have_its_own_file(tmp_path):
    make_folder(tmp_path, "sentencepiece")
    (tmp_path / "spm.model").rename(tmp_path / "spm.en.model")
    (tmp_path / "spm.model").write_bytes(b"not for English")
    assert guess_bpe(tmp_path, "en") == "sentencepiece"
    ours = load_segmenter(None, "sentencepiece", "en", tmp_path)
    assert ours.decode(ours.encode("the paper")) == "the paper"
    with refused(tmp_path / "spm.model", "is not a SentencePiece model"):
        load_segmenter(None, "sentencepiece", "de", tmp_path)
    for name in ("spm.model", "spm.en.model"):
        (tmp_path / name).unlink()
    write_codes(tmp_path, "fastbpe")
    (tmp_path / "bpecodes").rename(tmp_path / "bpecodes.de")
    assert guess_bpe(tmp_path, "de") == "fastbpe"
    assert load_segmenter(None, "fastbpe", "de", tmp_path).encode("ab") != []
    with refused(tmp_path, "neither bpecodes nor code", "such as code.en"):
        load_segmenter(None, "fastbpe", "en", tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with refused("neither sentencepiece.bpe.model nor spm.model"):
        load_segmenter(None, "sentencepiece", "en", tmp_path)
