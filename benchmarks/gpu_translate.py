"""On a GPU: how fast are translations sampled, compared with ``fairseq-generate``?

A Transformer of the shape of the WMT models with random weights and a dictionary of
42,024 pieces samples three translations per source. The peer is the generator of
``fairseq-generate --sampling --fp16 --beam 3 --nbest 3`` at the fastest of several
batch sizes, on sources sorted by length. Neither side processes text. Both stop at 30
pieces, because random weights seldom end a sentence. Only single precision is measured:
the probabilities of the next pieces are closer to each other than a trained model's, so
lower precisions would mostly repeat decisions.
"""

import copy
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from benchmarks.pairs import Pairs, Row, Settings
from fairseq_scl.augment.sampler.decoding import Request, padded, translate
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.translator import Translator, load_translator

QUESTION = "sampling translations on a GPU, 3 each"
TEMPERATURE, COPIES, LONGEST = 0.9, 3, 30
BATCH_SIZES = (64, 128, 256, 512)
MOST_ROUNDS = 3
# Architecture, pieces and sources. The second is for rehearsals on a CPU.
LARGE = ("transformer_wmt_en_de_big", 42_024, 512)
TINY = ("transformer_iwslt_de_en", 500, 6)


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the row of this benchmark."""
    on_gpu = torch.cuda.is_available()
    arch, pieces, count = LARGE if on_gpu else TINY
    rounds = min(settings.rounds, MOST_ROUNDS)
    sources = _sources(pieces, count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = _save_model(folder, arch, pieces)
        translator = load_translator([folder], "en", "de", "cuda" if on_gpu else "cpu")
        peer, batch_size = _peer(task, translator, sources, rounds, on_gpu)
        ours = _ours(translator, sources, rounds)
    yield Pairs(ours, peer, "ms per translation").gain(
        QUESTION,
        "fp32, against fairseq-generate --sampling"
        f"{' --fp16' * on_gpu} --batch-size {batch_size}",
    )


def _sources(pieces: int, count: int) -> list[tuple[int, ...]]:
    random = np.random.default_rng(0)
    eos = Dictionary().eos()
    lengths = sorted(random.integers(4, 40, count))
    return [(*random.integers(4, pieces, n).tolist(), eos) for n in lengths]


def _save_model(folder: Path, arch: str, pieces: int) -> Any:
    """Write dictionaries and a checkpoint with random weights; return the task."""
    dictionary = Dictionary()
    for number in range(pieces - dictionary.nspecial):
        dictionary.add_symbol(f"piece{number}")
    for language in ("en", "de"):
        dictionary.save(str(folder / f"dict.{language}.txt"))
    words = [str(folder), "--task", "translation", "--arch", arch]
    words += ["--source-lang", "en", "--target-lang", "de"]
    words += ["--share-decoder-input-output-embed"]
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(0)
    history = {"criterion_name": None, "optimizer_name": None}
    history |= {"lr_scheduler_state": {}, "num_updates": 0}
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": task.build_model(cfg.model).state_dict(),
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, folder / "model.pt")
    return task


def _peer(
    task: Any,
    translator: Translator,
    sources: list[tuple[int, ...]],
    rounds: int,
    on_gpu: bool,
) -> tuple[tuple[float, ...], int]:
    """Return fairseq's milliseconds per translation and its fastest batch size."""
    model = copy.deepcopy(translator.models[0])
    model = model.half() if on_gpu else model

    def seconds(size: int) -> float:
        return _generate(task, model, translator, sources, size)

    tried = {}
    for size in BATCH_SIZES if on_gpu else (2, 6):
        _generate(task, model, translator, sources[-size:], size)  # warm up
        tried[size] = seconds(size)
    best = min(tried, key=lambda size: tried[size])
    found = [tried[best], *(seconds(best) for _ in range(rounds - 1))]
    return tuple(1000 * s / (len(sources) * COPIES) for s in found), best


def _ours(
    translator: Translator, sources: list[tuple[int, ...]], rounds: int
) -> tuple[float, ...]:
    """Return milliseconds per translation, one figure per round."""
    requests = [
        Request(source, tuple(COPIES * number + copy for copy in range(COPIES)))
        for number, source in enumerate(sources)
    ]
    method = DecodingMethod(TEMPERATURE, max_len_b=LONGEST)
    translate(translator, requests[:8], method)  # warm up
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        translate(translator, requests, method)
        found.append(1000 * (time.perf_counter() - start) / (len(sources) * COPIES))
    return tuple(found)


def _generate(
    task: Any,
    model: Any,
    translator: Translator,
    sources: list[tuple[int, ...]],
    size: int,
) -> float:
    """Return the seconds that fairseq's generator takes for all sources."""
    settings = Namespace(
        beam=COPIES,
        nbest=COPIES,
        sampling=True,
        temperature=TEMPERATURE,
        max_len_a=0,
        max_len_b=LONGEST,
    )
    generator = task.build_generator([model], settings)
    device = next(model.parameters()).device
    start = time.perf_counter()
    for first in range(0, len(sources), size):
        batch = sources[first : first + size]
        lengths = torch.tensor([len(source) for source in batch], device=device)
        net_input = {
            "src_tokens": padded(batch, translator).to(device),
            "src_lengths": lengths,
        }
        with torch.no_grad():
            found = generator.generate([model], {"net_input": net_input})
        for hypotheses in found:  # as the command does before writing them
            [hypothesis["tokens"].tolist() for hypothesis in hypotheses]
    return time.perf_counter() - start
