"""Toy translation models: lowercase letters (English) become uppercase (German).

They train in a second or two and are saved in the layout of fairseq's published models.
"""

import functools
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

WORDS = {"en": "abcdefghijklmnopqrst", "de": "ABCDEFGHIJKLMNOPQRST"}
POSITIONS = 24
LONGEST = 9
SHAPES = {
    "transformer": {
        **{"encoder-layers": 1, "decoder-layers": 2, "dropout": 0.0},
        **{"encoder-embed-dim": 32, "decoder-embed-dim": 32},
        **{"encoder-ffn-embed-dim": 32, "decoder-ffn-embed-dim": 32},
        **{"encoder-attention-heads": 2, "decoder-attention-heads": 2},
        **{"max-source-positions": POSITIONS, "max-target-positions": POSITIONS},
    },
    "lstm": {
        **{"encoder-embed-dim": 32, "decoder-embed-dim": 32, "dropout": 0.0},
        **{"encoder-hidden-size": 32, "decoder-hidden-size": 32},
        "decoder-out-embed-dim": 32,
    },
}
_KEPT = tempfile.TemporaryDirectory(prefix="toy-translation-")


class Letters:
    """A segmenter that uses words as pieces."""

    def encode(self, text):
        """Split at spaces."""
        return text.split()

    def decode(self, pieces):
        """Join with spaces."""
        return " ".join(pieces)


@functools.cache
def toy_models(
    source="en", target="de", arch="transformer", seed=1, updates=75, flags=()
) -> Path:
    """Train once per process; return the folder."""
    folder = Path(tempfile.mkdtemp(dir=_KEPT.name))
    return make_toy_models(folder, source, target, arch, seed, updates, flags)


def make_toy_models(
    folder, source="en", target="de", arch="transformer", seed=1, updates=75, flags=()
) -> Path:
    """Write ``model.pt`` and both dictionaries.

    Args:
        folder: output folder.
        source: source language.
        target: target language.
        arch: ``transformer`` or ``lstm``.
        seed: seed of weights and data.
        updates: training updates; with 0 the model is random.
        flags: additional ``fairseq-train`` flags without values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for language, words in WORDS.items():
        dictionary = Dictionary()
        for word in words:
            dictionary.add_symbol(word)
        dictionary.save(str(folder / f"dict.{language}.txt"))
    words = [str(folder), "--task", "translation", "--arch", arch, *flags]
    words += ["--source-lang", source, "--target-lang", target]
    for name, value in SHAPES[arch].items():
        words += [f"--{name}", str(value)]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(seed)
    model = task.build_model(cfg.model)
    _train(model, updates)
    history = {"criterion_name": None, "optimizer_name": None}
    history |= {"lr_scheduler_state": {}, "num_updates": updates}
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, folder / "model.pt")
    return folder


def _train(model, updates):
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    eos, first = 2, 4
    for _ in range(updates):
        length = int(torch.randint(1, LONGEST, ()))
        words = torch.randint(first, first + len(WORDS["en"]), (64, length))
        ends = torch.full((64, 1), eos)
        source, target = torch.cat([words, ends], 1), torch.cat([ends, words], 1)
        lengths = torch.full((64,), length + 1)
        logits = model(source, lengths, target)[0]
        loss = F.cross_entropy(logits.flatten(0, 1), source.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
