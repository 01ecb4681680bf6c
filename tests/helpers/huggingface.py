"""A small random encoder in the format of transformers."""

import json

import torch
import transformers
from safetensors.torch import load_file

from fairseq_scl.data.vocabulary_files import number_pieces

WORDS = ["the", "film", "acted", "gripping", "beautifully", "##ing", ",", ".", "!"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Special pieces at BERT's positions, far from those that fairseq expects.
PIECES = ["[PAD]", "[unused0]", *WORDS, *LETTERS, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "f"), ("i", "l"), ("Ġf", "il"), ("Ġ", "a")]
MODELS = {
    "bert": ("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    "roberta": ("RobertaModel", "RobertaForMaskedLM"),
}


def write_source(folder, kind="bert", name=None, safe=True, scale=1.0, **settings):
    """Write a random encoder in the format of transformers and return its model."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "type_vocab_size": 2,
        **settings,
    }
    if kind == "bert":
        (folder / "vocab.txt").write_text("\n".join([*PIECES, ""]))
        shape = {"vocab_size": len(PIECES), "max_position_embeddings": 40} | shape
        config = transformers.BertConfig(**shape)
    else:
        ordinary = number_pieces(MERGES)
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ordinary), "extra", "<mask>"]
        ids = {piece: number for number, piece in enumerate(pieces)}
        (folder / "vocab.json").write_text(json.dumps(ids))
        merges = "".join(f"{a} {b}\n" for a, b in MERGES)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
        shape = {"vocab_size": len(ids), "max_position_embeddings": 42} | shape
        config = transformers.RobertaConfig(**{"layer_norm_eps": 1e-5} | shape)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    torch.manual_seed(0)
    model = getattr(transformers, name or MODELS[kind][0])(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            mean = (
                "LayerNorm.weight" in parameter_name or "norm.weight" in parameter_name
            )
            parameter.normal_(float(mean), 0.2)
            if "embeddings." in parameter_name and "LayerNorm" not in parameter_name:
                parameter.mul_(scale)
    save_model(model, folder, safe)
    return model


def save_model(model, folder, safe, **settings):
    """Save a model; without ``safe`` as pickles, as transformers did before version 5.

    Args:
        model: the model.
        folder: an existing folder.
        safe: whether to write ``safetensors``.
        settings: of ``save_pretrained``.
    """
    model.save_pretrained(folder, **settings)
    index = folder / "model.safetensors.index.json"
    if safe:
        return
    if index.is_file():
        text = index.read_text("utf-8").replace("model-", "pytorch_model-")
        text = text.replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text, "utf-8")
        index.unlink()
    for path in folder.glob("model*.safetensors"):
        name = path.stem.replace("model", "pytorch_model", 1)
        torch.save(load_file(path), folder / f"{name}.bin")
        path.unlink()


def fast_tokenizer(folder):
    """Return the tokenizer of transformers for a vocabulary."""
    if (folder / "vocab.txt").exists():
        return transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return transformers.RobertaTokenizerFast(*files)


def write_tokenizer_json(folder, added=()):
    """Write the files of a fast tokenizer of transformers and return the tokenizer.

    The rows of its added tokens follow those of the vocabulary.
    """
    tokenizer = fast_tokenizer(folder)
    tokenizer.add_tokens([*added])
    tokenizer.save_pretrained(folder)
    return tokenizer
