"""How much faster is a training step without padding?

Stock fairseq, Hugging Face's BERT with scaled_dot_product_attention, and fairseq with
``--packed`` take turns on the same real batches with the same weights. Each runs in its
own process, so that none benefits from changes another makes to the process (such as
the memory that ``--packed`` keeps). A step is forward, backward and optimizer as in
each side's training loop: fairseq's Adam for the stock side and ``fused_adam`` for
ours, as in ``fairseq-scl run``, both with the gradient norm; Trainer's fused AdamW with
clipping. Rows "without optimizer" show the gain of the encoder alone.
"""

import logging
import multiprocessing
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.material import fetch_encoder, prepare_few_shot
from benchmarks.pairs import Pairs, Row, Settings, peer_module
from fairseq_scl.errors import InputError

QUESTION = "training step, real tokens only"
PEERS = {"fairseq": "stock fairseq", "transformers": "Hugging Face, SDPA"}
# GLUE task: batch size to target ratio.
TASKS = {"SST-2": {16: 2.0, 256: 3.5}, "QNLI": {16: 1.4, 256: 1.8}}
SENTENCES = 4096
# No round of a size starts later than this: the peers take up to a minute per round
# with the large batch.
MOST_SECONDS = 45.0


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark; needs ``--glue``.

    Raises:
        InputError: ``--glue`` is missing.
        PeerMissing: transformers is not installed.
    """
    if settings.glue is None:
        raise InputError("--glue is required: pass the folder with SST-2 and QNLI")
    peer_module("transformers", "transformers")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as set by the runner
    with tempfile.TemporaryDirectory() as folder:
        source, encoder = fetch_encoder(Path(folder))
        for task, wanted in TASKS.items():
            data = prepare_few_shot(
                settings.glue, task, SENTENCES, encoder, Path(folder), samples=1
            )
            yield from _task_rows(settings, task, wanted, (data, encoder, source))


def _task_rows(
    settings: Settings,
    task: str,
    wanted: dict[int, float],
    places: tuple[Path, Path, Path],
) -> Iterator[Row]:
    sides = {
        name: _start(name, settings.threads, places) for name in ("packed", *PEERS)
    }
    try:
        for size, at_least in wanted.items():
            found = _measure(sides, size, settings.rounds)
            for peer, name in PEERS.items():
                setting = f"{task}, batch {size}, against {name}"
                whole = _pairs(found, peer, whole=True)
                yield whole.gain(QUESTION, setting, at_least=at_least)
                part = _pairs(found, peer, whole=False)
                yield part.gain(QUESTION, f"{setting}, without optimizer")
    finally:
        for connection, process in sides.values():
            connection.send(None)
            process.join()


Times = list[tuple[float, float]]


def _measure(sides: dict[str, Any], size: int, rounds: int) -> dict[str, Times]:
    """Return seconds of (forward and backward, whole step), one pair per round."""
    draw = random.Random(size)
    found: dict[str, Times] = {name: [] for name in sides}
    names = list(sides)
    start = time.monotonic()
    for number in range(rounds + 1):
        if number > 1 and time.monotonic() - start > MOST_SECONDS:
            break
        # Warm up on a few sentences: the first call selects its algorithms.
        count = size if number else 16
        batch = [draw.randrange(SENTENCES) for _ in range(count)]
        for name in names if number % 2 else reversed(names):
            connection, _ = sides[name]
            connection.send(batch)
            seconds = connection.recv()
            if number:
                found[name].append(seconds)
    return found


def _pairs(found: dict[str, Times], peer: str, whole: bool) -> Pairs:
    ours, theirs = (
        tuple(1000 * seconds[whole] for seconds in found[name])
        for name in ("packed", peer)
    )
    return Pairs(ours, theirs)


def _start(name: str, threads: int, places: tuple[Path, Path, Path]) -> Any:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(name, threads, places, there))
    process.start()
    there.close()  # so that this process ends if the other side dies
    return here, process


def _serve(
    name: str, threads: int, places: tuple[Path, Path, Path], connection: Connection
) -> None:
    """Take one step per list of sentence numbers received; reply with its seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # fairseq calls Hydra by deprecated names
    logging.disable(logging.WARNING)
    dataset, forward, update = _side(name, *places)
    while (numbers := connection.recv()) is not None:
        sample = dataset.collater([dataset[number] for number in numbers])
        arguments = forward.prepare(sample)
        start = time.perf_counter()
        forward(arguments).backward()
        middle = time.perf_counter()
        update(len(numbers))
        end = time.perf_counter()
        connection.send((middle - start, end - start))


class _Fairseq:
    """fairseq's classifier and its loss, computed as in the stock criterion."""

    def __init__(self, model: Any, criterion: Any) -> None:
        self.model = model.train()
        self.criterion = criterion

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    def __call__(self, sample: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = self.criterion(self.model, sample)[0]
        return loss


class _HuggingFace:
    """Hugging Face's classifier and its loss, on the same token ids, renumbered."""

    def __init__(self, source: Path, symbols: list[str]) -> None:
        transformers = peer_module("transformers", "transformers")
        kind = transformers.AutoModelForSequenceClassification
        self.model = kind.from_pretrained(source, attn_implementation="sdpa").train()
        words = (source / "vocab.txt").read_text("utf-8").splitlines()
        number = {word: i for i, word in enumerate(words)}
        special = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]"}
        known = [number.get(special.get(s, s), number["[UNK]"]) for s in symbols]
        self.numbers = torch.tensor(known)
        self.pad = number["[PAD]"]

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        ids = self.numbers[sample["net_input"]["src_tokens"]]
        return {
            "input_ids": ids,
            "attention_mask": ids.ne(self.pad).long(),
            "labels": sample["target"].view(-1),
        }

    def __call__(self, arguments: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = self.model(**arguments).loss
        return loss


def _side(
    name: str, data: Path, encoder: Path, source: Path
) -> tuple[Any, Any, Callable[[int], None]]:
    """Build one side: its dataset, loss and update."""
    cfg, task, model, criterion = _fairseq(data, encoder, packed=name == "packed")
    dataset = task.load_dataset("train")
    if name == "transformers":
        theirs = _HuggingFace(source, task.source_dictionary.symbols)
        parameters = list(theirs.model.parameters())
        fused = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

        def step_of_trainer(_: int) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            fused.step()
            fused.zero_grad()

        return dataset, theirs, step_of_trainer

    from fairseq.optim import build_optimizer

    adam = build_optimizer(cfg.optimizer, list(model.parameters()))

    def step_of_fairseq(size: int) -> None:
        adam.multiply_grads(1 / size)
        adam.clip_grad_norm(0.0)
        adam.step()
        adam.zero_grad()

    return dataset, _Fairseq(model, criterion), step_of_fairseq


def _fairseq(data: Path, encoder: Path, packed: bool) -> tuple[Any, Any, Any, Any]:
    """Build what ``fairseq-train`` builds for a run, with the encoder's weights."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.tasks import setup_task

    import fairseq_scl
    from fairseq_scl.compat.checkpoints import load_checkpoint
    from fairseq_scl.data.binarize import fairseq_flags
    from fairseq_scl.experiments.architecture import architecture_flags
    from fairseq_scl.experiments.command import RECIPE

    recipe = list(RECIPE)
    if not packed:
        recipe[recipe.index("fused_adam")] = "adam"
    argv = [
        *[str(data), "--user-dir", str(Path(fairseq_scl.__file__).parent)],
        *["--task", "sentence_prediction_scl", *fairseq_flags(data)],
        *["--criterion", "sentence_prediction", "--shorten-method", "truncate"],
        *[*recipe, "--lr", "1e-5"],
        *architecture_flags(encoder, 512),
        *(["--packed"] if packed else []),
    ]
    parser = options.get_training_parser()
    known = options.parse_args_and_arch(parser, input_args=argv)
    cfg = convert_namespace_to_omegaconf(known)
    task = setup_task(cfg.task)
    model = task.build_model(cfg.model)
    state = load_checkpoint(encoder / "model.pt")["model"]
    model.load_state_dict(state, strict=False)
    return cfg, task, model, task.build_criterion(cfg.criterion)
