"""Write our tokenizers as files for ``transformers``.

``tokenizer.json`` is complete: it has the whitespace rule, the special tokens and the
template of a pair. Older versions of ``transformers`` read ``vocab.txt``, or
``vocab.json`` and ``merges.txt``, which are written as well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import tokenizers
from fairseq.data import Dictionary
from tokenizers import AddedToken, Regex, decoders, normalizers
from tokenizers.processors import TemplateProcessing

from fairseq_scl.convert.source_tokenizer import (
    SPECIAL,
    TOKENIZER,
    read_tokenizer_json,
    refuse_other_tokens,
    special_tokens,
)
from fairseq_scl.convert.to_huggingface import MODEL_TYPES
from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.texts import one_line
from fairseq_scl.data.tokenizers import (
    GPT2BPE,
    WordPiece,
    bert_tokenizer,
    byte_level_tokenizer,
)
from fairseq_scl.data.vocabulary_files import WordPieceSettings, byte_symbols
from fairseq_scl.errors import InputError

# What Python's str.split treats as whitespace, like data folders and prediction.
BLANKS = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the new model.

    Attributes:
        pieces: pieces of the tokenizer's model, in the order of their ids.
        ids: id of each token; added tokens follow the pieces.
        rows: for each id, its row in fairseq's embedding.
        special: names of ``<s>``, ``<pad>``, ``</s>``, ``<unk>`` and ``<mask>``.
    """

    pieces: list[str]
    ids: dict[str, int]
    rows: list[int]
    special: tuple[str, ...]

    def of_fairseq(self, number: int | None, origin: object) -> list[str]:
        """Return the name of a special token in a list, an empty list for ``None``."""
        if number is None:
            return []
        for name in self.special:
            if self.rows[self.ids[name]] == number:
                return [name]
        raise InputError(
            f"{origin} was trained with the token {number} at the start or between "
            "its sentences, allowed for Hugging Face: a special token of the dictionary"
        )


def new_vocabulary(
    tokenizer: WordPiece | GPT2BPE, dictionary: Dictionary, origin: object
) -> Vocabulary:
    """Number the tokens for ``transformers``.

    Word pieces keep the order of ``vocab.txt``, byte pairs that of the dictionary. A
    piece that is not in the dictionary gets the row of ``<unk>``.

    Raises:
        InputError: a piece has the name of a special token.
    """
    kind = MODEL_TYPES[tokenizer.kind]
    special = SPECIAL[kind]
    numbers = (*range(4), dictionary.index("<mask>"))
    row_of = dict(zip(special, numbers, strict=True))
    added = [token.content for token in tokenizer.settings.added_tokens or []]
    if isinstance(tokenizer, WordPiece):
        missing = [name for name in special if name not in tokenizer.vocabulary]
        pieces = [*tokenizer.vocabulary, *missing]
        rows = {
            name: row_of.get(name, dictionary.index(name)) for name in [*pieces, *added]
        }
    else:
        piece_of = {str(number): piece for piece, number in tokenizer.encoder.items()}
        rows = {}
        for row, symbol in enumerate(dictionary.symbols):
            # Symbols that do not occur in text, such as the padding of dictionaries.
            name = symbol if row in numbers else piece_of.get(symbol, f"[{symbol}]")
            if rows.setdefault(name, row) != row:
                raise InputError(
                    f"{origin} has a piece named {name}, which is a special token"
                )
        made = [first + second for first, second in tokenizer.merges]
        for piece in [*byte_symbols(), *made, *added]:
            rows.setdefault(piece, dictionary.unk())
        pieces = list(rows)
    ids = {name: number for number, name in enumerate(rows)}
    return Vocabulary(pieces, ids, list(rows.values()), special)


def write_tokenizer(
    folder: Path,
    tokenizer: WordPiece | GPT2BPE,
    vocabulary: Vocabulary,
    template: Sequence[Sequence[str]],
    max_positions: int,
) -> None:
    """Write ``tokenizer.json``, its settings and the files of older versions.

    The result is read back and compared on varied texts and on the whole vocabulary.

    Args:
        folder: an existing folder.
        tokenizer: the tokenizer of the classifier.
        vocabulary: from :func:`new_vocabulary`.
        template: the special tokens before the first sentence, after each sentence,
            and before the second.
        max_positions: longest input in tokens, including special tokens.

    Raises:
        InputError: an added token starts or ends with whitespace, or ``tokenizers``
            splits a text differently.
    """
    before, after, between = template
    single = [*before, "$A", *after]
    written = _tokenizer(tokenizer, vocabulary)
    written.post_processor = TemplateProcessing(
        single=single,
        # Token type 0 for both sentences, since fairseq does not have token types.
        pair=[*single, *between, "$B:0", *after],
        special_tokens=[(name, vocabulary.ids[name]) for name in vocabulary.special],
    )
    with write_then_rename(folder / TOKENIZER) as file:
        file.write(written.to_str(pretty=True))
    _write_older_files(folder, tokenizer, vocabulary)
    special = special_tokens(MODEL_TYPES[tokenizer.kind])
    write_json(folder / "special_tokens_map.json", special)
    inputs = ["input_ids", "attention_mask"]
    settings: dict[str, Any] = {
        # Uses tokenizer.json as it is; the classes of BERT and RoBERTa change it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        # "[SEP]" or "</s>" in a text is not a special token.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": inputs,
    }
    ours = tokenizer.settings
    if isinstance(ours, WordPieceSettings):
        settings |= {
            "model_input_names": [inputs[0], "token_type_ids", inputs[1]],
            "do_lower_case": ours.lowercase,
            "strip_accents": ours.strip_accents,
            "tokenize_chinese_chars": ours.split_chinese,
        }
    write_json(folder / "tokenizer_config.json", settings | special)
    _refuse_differences(folder, tokenizer)


def _tokenizer(
    tokenizer: WordPiece | GPT2BPE, vocabulary: Vocabulary
) -> tokenizers.Tokenizer:
    rule: list[Any] = [normalizers.Replace(Regex(f"[{BLANKS}]+"), " ")]
    added: list[dict[str, Any]] = [
        {**msgspec.to_builtins(token), "special": False}
        for token in tokenizer.settings.added_tokens or []
    ]
    for token in added:
        if one_line(token["content"]) != token["content"]:
            raise InputError(
                f"the added token {token['content']!r} has whitespace at its ends or "
                "several blanks inside, which an exported tokenizer cannot have"
            )
    if isinstance(tokenizer, GPT2BPE):
        made = byte_level_tokenizer(vocabulary.ids, tokenizer.merges)
        rule.append(normalizers.Replace(Regex(r"\A | \z"), ""))
        made.decoder = decoders.ByteLevel()
        # Matched in the normalized text. Otherwise the text between two added tokens
        # would be stripped, too.
        added = [{**token, "normalized": True} for token in added]
    else:
        pieces = {name: vocabulary.ids[name] for name in vocabulary.pieces}
        made = bert_tokenizer(pieces, cast(WordPieceSettings, tokenizer.settings))
        rule.append(made.normalizer)
        made.decoder = decoders.WordPiece()
    made.normalizer = normalizers.Sequence(rule)
    made.add_special_tokens(
        [AddedToken(name, normalized=False) for name in vocabulary.special]
    )
    made.add_tokens([AddedToken(**token) for token in added])
    return made


def _write_older_files(
    folder: Path, tokenizer: WordPiece | GPT2BPE, vocabulary: Vocabulary
) -> None:
    if isinstance(tokenizer, WordPiece):
        with write_then_rename(folder / "vocab.txt") as file:
            file.writelines(f"{name}\n" for name in vocabulary.pieces)
        return
    with write_then_rename(folder / "vocab.json") as file:
        json.dump(vocabulary.ids, file)
    with write_then_rename(folder / "merges.txt") as file:
        file.write("#version: 0.2\n")
        file.writelines(f"{first} {second}\n" for first, second in tokenizer.merges)


def _refuse_differences(folder: Path, tokenizer: WordPiece | GPT2BPE) -> None:
    written = read_tokenizer_json(folder / TOKENIZER, MODEL_TYPES[tokenizer.kind])
    if isinstance(tokenizer, WordPiece):
        piece_of = {name: name for name in written.rows}
    else:
        piece_of = {str(number): piece for piece, number in tokenizer.encoder.items()}

    def encode(texts: Sequence[str]) -> list[list[str]]:
        rows = tokenizer.encode_lines([one_line(text) for text in texts])
        return [[piece_of[symbol] for symbol in row] for row in rows]

    refuse_other_tokens(written, encode, collapses_blanks=True)
