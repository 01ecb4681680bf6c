"""``roberta_bert``: fairseq's RoBERTa with a configurable layer norm epsilon.

The stock model always uses 1e-5, but BERT was trained with 1e-12. The state dict is the
same as the stock model's.
"""

import argparse
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta.model import RobertaModel, base_architecture
from fairseq.utils import safe_getattr
from torch import nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError

BERT_EPS = 1e-12


@register_model("roberta_bert")
class RobertaBertModel(RobertaModel):
    """RoBERTa with layer norms that use ``--layer-norm-eps``."""

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add the stock model's flags and ``--layer-norm-eps``."""
        RobertaModel.add_args(parser)
        parser.add_argument(
            "--layer-norm-eps",
            type=float,
            metavar="E",
            help="added to the variance in each layer norm of the encoder (default: "
            f"set by the architecture, {BERT_EPS} for BERT and 1e-05 for RoBERTa)",
        )

    @classmethod
    @exit_on_input_error()
    def build_model(cls, args: Any, task: Any) -> "RobertaBertModel":
        """Build the stock model and set the epsilon of its layer norms.

        Args:
            args: the model's settings, a namespace or omegaconf node.
            task: the fairseq task that has the dictionary.

        Raises:
            InputError: ``--layer-norm-eps`` is not above 0.
        """
        if not args.layer_norm_eps > 0:
            raise InputError(
                f"--layer-norm-eps is {args.layer_norm_eps}: it must be above 0"
            )
        model: RobertaBertModel = super().build_model(args, task)
        for module in model.encoder.modules():
            # fairseq prefers Apex's fused layer norm, which is not an nn.LayerNorm.
            if isinstance(module, nn.LayerNorm) or "LayerNorm" in type(module).__name__:
                module.eps = args.layer_norm_eps
        return model


@register_model_architecture("roberta_bert", "roberta_bert")
def roberta_bert_architecture(args: Any) -> None:
    """Set the defaults: BERT-base."""
    args.layer_norm_eps = safe_getattr(args, "layer_norm_eps", BERT_EPS)
    base_architecture(args)
