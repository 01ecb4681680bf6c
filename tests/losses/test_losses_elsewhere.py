"""The code of docs/losses.md: our losses in other people's training loops."""

import re

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from fairseq_scl.losses import supervised_contrastive_loss
from helpers import ROOT

PAGE = (ROOT / "docs" / "losses.md").read_text("utf-8")
CODES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_loop_of_the_page_learns():
    space = {}
    with torch.random.fork_rng():
        exec(CODES[0], space)
    assert space["history"][-1] < space["history"][0]
    answers = space["head"](space["encoder"](space["inputs"])).argmax(1)
    assert (answers == space["labels"]).float().mean() > 0.9


def tiny_bert():
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "intermediate_size": 16}
    shape |= {"initializer_range": 0.5}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**shape))


@pytest.fixture
def trainer(tmp_path):
    """Return the page's trainer with a toy model and eight examples."""
    pytest.importorskip("accelerate")
    space = {}
    exec(CODES[1], space)
    rows = [
        {"input_ids": torch.tensor([2, 5 + i, 3 + i % 2, 1]), "labels": i % 2}
        for i in range(8)
    ]
    arguments = transformers.TrainingArguments(
        tmp_path,
        max_steps=20,
        learning_rate=0.01,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    return space["ContrastiveTrainer"](
        tiny_bert(), arguments, train_dataset=rows, eval_dataset=rows
    )


def test_the_trainer_of_the_page_minimizes_ce_and_scl(trainer):
    model = trainer.model.eval()
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss, output = trainer.compute_loss(model, batch, return_outputs=True)
    hidden = model.bert(input_ids=batch["input_ids"]).last_hidden_state[:, 0]
    scl = supervised_contrastive_loss(hidden, batch["labels"], 0.3, "mean")
    ce = cross_entropy(output["logits"], batch["labels"])
    torch.testing.assert_close(loss, 0.1 * ce + 0.9 * scl)
    before = [p.detach().clone() for p in model.parameters()]
    assert trainer.train().training_loss > 0
    after = model.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.evaluate()["eval_loss"] < loss.item()
