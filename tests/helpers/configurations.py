"""Hydra command lines for the shipped configurations."""

from pathlib import Path

from helpers.training import USER_DIR, run_fast

CONFIGURATIONS = Path(USER_DIR, "conf", "hydra")


def trained_with_hydra(data, save_dir, *overrides):
    """Train with the shipped configuration to the end; return the last checkpoint."""
    done = run_fast(
        "fairseq_cli.hydra_train", hydra_arguments(data, save_dir, *overrides)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(save_dir, "checkpoint_last.pt")


def hydra_arguments(data, save_dir, *overrides):
    """Return arguments for the shipped configuration with a toy model on a CPU."""
    return [
        *["--config-dir", str(CONFIGURATIONS)],
        *["--config-name", "sentence_prediction_scl"],
        *[f"hydra.run.dir={save_dir}/hydra", f"checkpoint.save_dir={save_dir}"],
        *[f"common.user_dir={USER_DIR}", f"task.data={data}"],
        *["common.cpu=true", "common.fp16=false", "dataset.num_workers=0"],
        *["task.max_positions=32", "model._name=roberta_base"],
        *["+model.encoder_layers=2", "+model.encoder_attention_heads=2"],
        *["+model.encoder_embed_dim=16", "+model.encoder_ffn_embed_dim=32"],
        *["optimization.max_update=4", "lr_scheduler.warmup_updates=1"],
        *["optimization.lr=[0.003]", "dataset.batch_size=4"],
        *overrides,
    ]


PREDICT = """
import sys, torch
from fairseq.models.roberta import RobertaModel
folder, name, data, result = sys.argv[1:]
model = RobertaModel.from_pretrained(folder, name, data, bpe=None).eval()
tokens = torch.tensor([[0, 4, 5, 6, 2], [0, 9, 8, 2, 1]])
found = model.predict("sentence_classification_head", tokens)
assert not [name for name in sys.modules if name.split(".")[0] == "fairseq_scl"]
torch.save(found.detach(), result)
"""
