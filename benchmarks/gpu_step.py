"""On a GPU: how much faster is a training step without padding?

RoBERTa-Large with random weights, batches with the lengths of SST-2 and QNLI, half
precision: forward, backward and optimizer. ``--packed --cuda-graphs`` takes turns with
Hugging Face's SDPA, with stock fairseq and with ``--packed`` alone, on the same token
ids in the same process. All use the same optimizer (PyTorch's fused AdamW on bfloat16
weights), so that only the encoders differ. Passes have been captured before they are
timed. Sizes that do not fit on the card are reported as such.
"""

import copy
import gc
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairs import Pairs, Row, Settings, paired, peer_module
from benchmarks.random_model import HEAD, random_classifier
from fairseq_scl.data.official_files import task_table
from fairseq_scl.data.tasks import TASKS, TRAIN
from fairseq_scl.packing.encoder import LENGTHS, is_packed, pack

QUESTION = "training step on a GPU"
# Layers, width, heads, symbols. The second is for rehearsals on a CPU.
LARGE = (24, 1024, 16, 50_265)
TINY = (2, 64, 4, 1000)
# Batch size to target ratio over Hugging Face.
WANTED = {"SST-2": {16: 1.3, 64: 2.5, 256: 2.5}, "QNLI": {16: 1.3, 64: 1.8, 256: 1.8}}
# Length in tokens at every 5% quantile of the training sentences.
TWENTIETHS = {
    "SST-2": (3, 3, 4, 5, 6, 6, 7, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 34, 66),
    "QNLI": (
        *(16, 27, 30, 32, 35, 37, 39, 41, 43, 45, 47, 49, 52, 55, 58, 62, 66, 72),
        *(80, 95, 400),
    ),
}
BATCHES = 4  # of a measurement
OURS = "packed, CUDA graphs"


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark; with ``--glue`` it uses real lengths.

    Raises:
        PeerMissing: transformers is not installed.
    """
    peer_module("transformers", "transformers")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = LARGE if device.type == "cuda" else TINY
    roberta, _ = random_classifier(shape, pooler_dropout=0.1)
    roberta = roberta.to(device, torch.bfloat16)
    sides = {
        OURS: _Fairseq(pack(copy.deepcopy(roberta), cuda_graphs=True)),
        "Hugging Face, SDPA": _HuggingFace(shape, device),
        "packed, no graphs": _Fairseq(pack(copy.deepcopy(roberta))),
        "stock fairseq": _Fairseq(roberta),
    }
    for task, sizes in WANTED.items():
        known = lengths_of(task, settings)
        for size, wanted in sizes.items():
            if device.type == "cpu" and size > 16:
                break
            batches = [
                _Batch(known, size, shape[3], device, seed) for seed in range(BATCHES)
            ]
            for peer in list(sides)[1:]:
                name = f"{task}, batch {size}"
                yield _row(sides, peer, batches, name, wanted, settings.rounds)
    print(f"attention of --packed: {_way_of_attention(shape, device)}")


def _row(
    sides: dict[str, Any],
    peer: str,
    batches: list["_Batch"],
    name: str,
    wanted: float,
    rounds: int,
) -> Row:
    on_gpu = batches[0].tokens.is_cuda
    setting = f"{name}, against {peer}"
    ours, theirs = sides[OURS], sides[peer]
    wait = torch.cuda.synchronize if on_gpu else None
    try:
        found = paired(
            *(lambda: ours.steps(batches), lambda: theirs.steps(batches)),
            *(rounds, 0, wait),
        )
    except torch.OutOfMemoryError:
        for side in sides.values():
            side.model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        return Pairs((float("nan"),), (float("nan"),)).gain(
            QUESTION, f"{setting}: out of memory on one side"
        )
    pairs = [tuple(t / len(batches) for t in side) for side in (found.ours, found.peer)]
    target = wanted if peer.startswith("Hugging") else None
    return Pairs(*pairs).gain(QUESTION, setting, target)


def lengths_of(task: str, settings: Settings) -> "np.ndarray[Any, Any]":
    """Return token counts to draw from: of real sentences, or of a histogram.

    With ``--glue``, the words and punctuation marks of each sentence are counted and
    multiplied by 1.2 for subword pieces; the special tokens are added.
    """
    if settings.glue is None:
        places = np.linspace(0, 1, 21)
        drawn = np.random.default_rng(0).random(20_000)
        return np.interp(drawn, places, TWENTIETHS[task]).round().astype(int)
    table = itertools.islice(task_table(TASKS[task], settings.glue, TRAIN), 20_000)
    counts = [
        sum(2 + round(1.2 * len(text.split())) for text in example.sentences)
        for _, example in table
    ]
    return np.minimum(counts, 512)


class _Batch:
    """Return the token ids that every side gets, padded on the right with 1."""

    def __init__(
        self,
        known: "np.ndarray[Any, Any]",
        size: int,
        words: int,
        device: torch.device,
        seed: int,
    ) -> None:
        random = np.random.default_rng(seed)
        self.lengths: list[int] = random.choice(known, size).tolist()
        columns = torch.arange(max(self.lengths))
        self.real = columns < torch.tensor(self.lengths)[:, None]
        tokens = torch.from_numpy(random.integers(4, words, self.real.shape))
        self.tokens = tokens.where(self.real, 1).to(device)
        self.mask = self.real.long().to(device)
        self.target = torch.from_numpy(random.integers(2, size=size)).to(device)


class _Side:
    """A model with its optimizer; each side defines its own ``loss``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.train()
        self.adam = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    def loss(self, batch: _Batch) -> Tensor:
        """Return the mean cross-entropy."""
        raise NotImplementedError

    def steps(self, batches: list[_Batch]) -> None:
        """Take one step per batch."""
        for batch in batches:
            self.loss(batch).backward()
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)


class _Fairseq(_Side):
    def loss(self, batch: _Batch) -> Tensor:
        lengths = {LENGTHS: batch.lengths} if is_packed(self.model) else {}
        logits, _ = self.model(batch.tokens, classification_head_name=HEAD, **lengths)
        return F.cross_entropy(logits.float(), batch.target)


class _HuggingFace(_Side):
    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        transformers = peer_module("transformers", "transformers")
        layers, width, heads, count = shape
        config = transformers.RobertaConfig(
            vocab_size=count,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            attn_implementation="sdpa",
        )
        kind = transformers.AutoModelForSequenceClassification
        super().__init__(kind.from_config(config).to(device, torch.bfloat16))

    def loss(self, batch: _Batch) -> Tensor:
        output = self.model(input_ids=batch.tokens, attention_mask=batch.mask)
        return F.cross_entropy(output.logits.float(), batch.target)


def _way_of_attention(shape: tuple[int, ...], device: torch.device) -> str:
    from fairseq_scl.packing.kernel import has_kernel

    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    used = has_kernel(device, torch.bfloat16, shape[1] // shape[2])
    return "FlashAttention for variable lengths" if used else "padded rows"
