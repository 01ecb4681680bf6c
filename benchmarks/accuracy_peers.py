"""One training with a peer, for ``accuracy.py``, by a Python that has the peer.

Usage: ``python accuracy_peers.py METHOD ENCODER TEXTS SEED``. ENCODER is the encoder as
published, TEXTS a folder with ``train.input0``, ``train.label`` and the same for
``test``. Prints a JSON line: correct test answers, and seconds of processor time from
loading the encoder to the answers.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from datasets import Dataset


def setfit(encoder: str, train: "Dataset", test: "Dataset", seed: int) -> list[int]:
    """SetFit with its defaults and the documented ``num_iterations=20``."""
    from setfit import SetFitModel, Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_iterations=20,
            seed=seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        )
        model = SetFitModel.from_pretrained(encoder)
        Trainer(model=model, args=arguments, train_dataset=train).train()
    return [int(label) for label in model.predict(test["text"])]


def trainer(
    encoder: str, train: "Dataset", test: "Dataset", seed: int, **settings: int
) -> list[int]:
    """Hugging Face's ``Trainer`` with its defaults: 3 epochs, batch size 8, 5e-5."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)

    def tokenized(part: "Dataset") -> "Dataset":
        return part.map(lambda row: tokenizer(row["text"], truncation=True))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        made = Trainer(
            model=model,
            args=arguments,
            train_dataset=tokenized(train),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        made.train()
        logits = made.predict(tokenized(test)).predictions
    return [int(label) for label in logits.argmax(axis=1)]


def trainer_120(
    encoder: str, train: "Dataset", test: "Dataset", seed: int
) -> list[int]:
    """``Trainer`` with the updates and the batch size of the quick start."""
    settings = {"max_steps": 120, "per_device_train_batch_size": 16}
    return trainer(encoder, train, test, seed, **settings)


METHODS = {"setfit": setfit, "trainer": trainer, "trainer-120": trainer_120}


def main(method: str, encoder: str, texts: str, seed: int) -> None:
    """Train, predict and print the result."""
    from datasets import Dataset

    torch.set_num_threads(1)
    names = sorted(set(_lines(Path(texts, "train.label"))))
    parts = {}
    for split in ("train", "test"):
        labels = [names.index(name) for name in _lines(Path(texts, f"{split}.label"))]
        sentences = _lines(Path(texts, f"{split}.input0"))
        parts[split] = Dataset.from_dict({"text": sentences, "label": labels})
    start = time.process_time()
    found = METHODS[method](encoder, parts["train"], parts["test"], seed)
    seconds = time.process_time() - start
    truth = parts["test"]["label"]
    correct = sum(a == b for a, b in zip(found, truth, strict=True))
    print(json.dumps({"correct": correct, "total": len(truth), "seconds": seconds}))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))  # type: ignore[arg-type]
