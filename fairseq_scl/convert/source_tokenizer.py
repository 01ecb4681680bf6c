"""Read the tokenizer of a Hugging Face folder, and compare it with ours."""

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from fairseq_scl.data.files import read_json
from fairseq_scl.data.texts import one_line
from fairseq_scl.data.vocabulary_files import AddedTokenSettings
from fairseq_scl.errors import InputError
from fairseq_scl.typed import as_type

TOKENIZER = "tokenizer.json"
# First symbols of every fairseq dictionary, and <mask>, which tasks append.
RESERVED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPECIAL = {"bert": ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), "roberta": RESERVED}
MODELS = {"bert": "WordPiece", "roberta": "BPE"}
# Files with settings of a tokenizer; later ones override, as in transformers.
SETTINGS_FILES = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
# Settings of tokenizers in transformers that change the tokens of a text, with the
# values that we support. None is the same as a missing setting.
ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "bert": {
        "tokenizer_class": (None, "BertTokenizer", "BertTokenizerFast"),
        "do_lower_case": (None, True, False),
        "strip_accents": (None, True, False),
        "tokenize_chinese_chars": (True, False),
        "do_basic_tokenize": (None, True),
        "never_split": (None, []),
        "clean_text": (True,),
        "wordpieces_prefix": ("##",),
        "max_input_chars_per_word": (100,),
    },
    "roberta": {
        "tokenizer_class": (
            *(None, "RobertaTokenizer", "RobertaTokenizerFast"),
            *("GPT2Tokenizer", "GPT2TokenizerFast"),
        ),
        "add_prefix_space": (None, False),
    },
}
# Settings of tokenizers for single languages.
ALLOWED_OF_BOTH: dict[str, tuple[Any, ...]] = {
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
    "do_word_tokenize": (True,),
    "do_subword_tokenize": (True,),
    "normalization": (None, False),
}
# Settings that add tokens.
ADDING = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
# Names of classes that use tokenizer.json as it is.
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

TEXTS = (
    *("", " ", "new\nline\r\nreturn", "x" * 101, "ab" * 60, "trail ", " lead"),
    "  two  blanks \t and\ttabs ",
    "The QUICK brown Fox isn't lazy.",
    "naïve café Ångström ÀÉÎÕÜ ß ẞ ﬁlm İstanbul ıI Việt Nam đẹp ő ł ø",
    "ΟΔΟΣ Σίσυφος ЁЖИК ёжик й שלום עולם مرحبا नमस्ते 한국어 문장 ไทย",
    "你好，世界。東京都の映画はとても良いです カタカナ ﾊﾝｶｸ が か\u3099",
    "１２３ ①② ½ x² ㎏ ™ … ﬀ Ⅳ 1234567890 3.14 1,000,000 $5 50% 12:30 2024-01-02 a1b2",
    "covid19 mp3 B2B CamelCase snake_case kebab-case well-known e-mail _x_",
    "\"quoted\" 'single' (round) [square] {curly} <angle> a/b\\c --- ... ?! @#$%^&*",
    "don't can't I'LL we'd they've 'tis rock'n'roll O’Neil Mr. Smith's U.S.A. e.g.",
    "https://www.example.com/a_b?c=d&e=f#g me@example.org @user #HashTag :-) <3",
    "😀😀 ♥️ 🇫🇷 e😀e «guillemets» “curly” – — • · ¿qué? ¡sí!",
    "bell\x07 nul\x00 bom\ufeff soft\xad zero\u200bwidth \ufffd",
    "\u00a0nbsp\u3000wide\u2009thin\u1680 x\u2028y\u2029z\x85w",
    "cafe\u0301 A\u030angstro\u0308m e\u0301 E\u0301 👩\u200d👩\u200d👧",
)
PIECES_ON_A_LINE = 8


@dataclass(frozen=True)
class SourceTokenizer:
    """A ``tokenizer.json`` without its special tokens, which we treat as text.

    Attributes:
        path: the file.
        rows: the id of each token, including special and added tokens.
        pieces: the tokens of the model itself.
        merges: the merges of a byte-pair encoding.
        normalizer: settings of the normalizer.
        added_tokens: added tokens that are not special.
        parts: names of its normalizer and pre-tokenizer, for messages.
        tokenizer: the tokenizer.
    """

    path: Path
    rows: dict[str, int]
    pieces: frozenset[str]
    merges: list[tuple[str, str]]
    normalizer: dict[str, Any]
    added_tokens: list[AddedTokenSettings]
    parts: str
    tokenizer: tokenizers.Tokenizer


def special_tokens(model_type: str) -> dict[str, str]:
    """Return the special tokens under the names of their settings in transformers."""
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    found = dict(zip(names, SPECIAL[model_type], strict=True))
    if model_type == "roberta":
        found |= {"bos_token": found["cls_token"], "eos_token": found["sep_token"]}
    return found


def read_tokenizer_json(path: Path, model_type: str) -> SourceTokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        InputError: the file is damaged, or its model does not fit ``model_type``.
    """
    found, special = read_json(path), SPECIAL[model_type]
    with _errors_of_library(path):
        model = found["model"]
        rows = dict(model["vocab"])
        added = [dict(token) for token in found.get("added_tokens") or []]
        for token in added:
            if not token["content"]:
                raise ValueError("an added token is empty")
            if rows.setdefault(token["content"], token["id"]) != token.pop("id"):
                raise ValueError(f"two ids for the token {token['content']!r}")
        added = [token for token in added if token["content"] not in special]
        parts = {part: found.get(part) for part in ("normalizer", "pre_tokenizer")}
        tokenizer = tokenizers.Tokenizer.from_str(
            json.dumps({"version": "1.0", "model": model, **parts})
        )
        tokenizer.add_tokens([tokenizers.AddedToken(**token) for token in added])
        merges = [
            tuple(pair.split(" ") if isinstance(pair, str) else pair)
            for pair in model.get("merges", [])
        ]
    if (kind := type(tokenizer.model).__name__) != MODELS[model_type]:
        raise InputError(
            f"{path}: the model is {kind}, allowed for {model_type}: "
            f"{MODELS[model_type]}"
        )
    return SourceTokenizer(
        path=path,
        rows=rows,
        pieces=frozenset(model["vocab"]),
        merges=merges,
        normalizer=parts["normalizer"] or {},
        added_tokens=as_type(added, list[AddedTokenSettings], str(path)),
        parts=" and ".join(f"{part} {_name(parts[part])}" for part in parts),
        tokenizer=tokenizer,
    )


@contextmanager
def _errors_of_library(path: Path) -> Iterator[None]:
    """Within the block, raise an ``InputError`` for an error of ``tokenizers``."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is not an Exception
        raise InputError(f"{path} is not a tokenizer: {error}") from error


def read_settings(
    folder: Path, model_type: str, source: SourceTokenizer | None
) -> dict[str, Any]:
    """Return the settings of a folder's tokenizer; files with settings may be missing.

    ``source`` is the folder's ``tokenizer.json``, if there is one.

    Raises:
        InputError: the value of a setting is not supported, or a file has added tokens
            that ``tokenizer.json`` lacks.
    """
    allowed = ALLOWED_OF_BOTH | ALLOWED[model_type]
    if source:
        allowed["tokenizer_class"] += GENERIC_CLASSES
    special = special_tokens(model_type)
    allowed |= {name: (None, token) for name, token in special.items()}
    settings: dict[str, Any] = {}
    for path in (folder / name for name in SETTINGS_FILES):
        for name, value in _object(path).items():
            # transformers reads only the class from the model's configuration.
            if path.name == "config.json" and name != "tokenizer_class":
                continue
            values = allowed.get(name)
            if values is not None and not _is_in(_content(value), values):
                raise InputError(
                    f"{path}: {name} is {_content(value)!r}, which a converted encoder "
                    f"does not support; allowed: {', '.join(map(repr, values))}"
                )
            settings[name] = value
    known = {token.content for token in source.added_tokens} if source else set()
    for path, token in _added_tokens(folder):
        if token not in known and token not in SPECIAL[model_type]:
            raise InputError(
                f"{path} adds the token {token!r}, which would be split into pieces: "
                f"allowed are the special tokens of {model_type} and the added tokens "
                f"of a {TOKENIZER} in the same folder (save_pretrained of a fast "
                "tokenizer writes one)"
            )
    return settings


def refuse_other_tokens(
    source: SourceTokenizer,
    encode: Callable[[Sequence[str]], list[list[str]]],
    collapses_blanks: bool = False,
) -> None:
    """Refuse a converted tokenizer that splits a text differently from its source.

    They are compared on varied texts and on the whole vocabulary: as it is, with
    swapped case, decomposed, and without blanks between the pieces.

    Args:
        source: the tokenizer that the encoder was trained with.
        encode: our tokenizer, from texts to pieces as the source names them.
        collapses_blanks: whether the source also has to apply our whitespace rule;
            otherwise it gets texts with single blanks, as our tokenizers do.

    Raises:
        InputError: they differ; the message has a text and both lists of tokens.
    """
    pieces = {n: piece for piece, n in source.tokenizer.get_vocab().items()}

    def encode_source(lines: Sequence[str]) -> list[list[str]]:
        encode_batch = source.tokenizer.encode_batch
        with _errors_of_library(source.path):
            found = encode_batch(list(lines), add_special_tokens=False)
        return [[pieces[number] for number in encoding.ids] for encoding in found]

    lines = [*TEXTS, *_lines_of_vocabulary(source)]
    if not collapses_blanks:
        lines = [one_line(line) for line in lines]
    for line, theirs, ours in zip(
        lines, encode_source(lines), encode(lines), strict=True
    ):
        if theirs == ours:
            continue
        shorter = [word for word in line.split(" ") if word]
        tokens = zip(shorter, encode_source(shorter), encode(shorter), strict=True)
        text, theirs, ours = next(
            (found for found in tokens if found[1] != found[2]), (line, theirs, ours)
        )
        raise InputError(
            f"{source.path} ({source.parts}) splits {text!r} into {theirs[:20]}, but a "
            f"converted encoder would split it into {ours[:20]}; allowed: the "
            "tokenizers of BERT (WordPiece) and RoBERTa (GPT-2 BPE)"
        )


def _lines_of_vocabulary(source: SourceTokenizer) -> Iterator[str]:
    if isinstance(source.tokenizer.model, tokenizers.models.BPE):
        decode = tokenizers.decoders.ByteLevel().decode
        words = [decode([piece]).strip() for piece in source.rows]
    else:
        words = [piece.removeprefix("##") for piece in source.rows]
    for start in range(0, len(words), PIECES_ON_A_LINE):
        line = " ".join(words[start : start + PIECES_ON_A_LINE])
        yield line
        yield line.swapcase()
        yield unicodedata.normalize("NFD", line)
        yield line.replace(" ", "")
    for token in source.added_tokens:
        word = token.content
        yield f"{word} a {word}, {word.swapcase()} a{word}b {word}{word}"


def _added_tokens(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the tokens that the files next to ``tokenizer.json`` add."""
    path = folder / "added_tokens.json"
    yield from ((path, token) for token in _object(path))
    for path in (folder / name for name in SETTINGS_FILES[1:]):
        found = _object(path)
        for name in ADDING:
            tokens = found.get(name) or []
            values = tokens.values() if isinstance(tokens, dict) else tokens
            yield from ((path, str(_content(value))) for value in values)


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path) if os.path.lexists(path) else {}
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object")
    return found


def _content(value: Any) -> Any:
    """Return a token's text; files have it alone or with its settings."""
    return value["content"] if isinstance(value, dict) and "content" in value else value


def _is_in(value: Any, values: Sequence[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in values)


def _name(part: Any) -> str:
    if not part:
        return "none"
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return "+".join(map(_name, inner)) or str(part.get("type"))
