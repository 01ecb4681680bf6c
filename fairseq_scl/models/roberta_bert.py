"""``roberta_bert``: fairseq's RoBERTa with two more settings.

The stock model always uses a layer norm epsilon of 1e-5, but BERT was trained with
1e-12. Its classification heads always read the state at ``<s>``, but encoders of
sentences are often trained to be read by the mean over the tokens. The state dict is
the same as the stock model's.
"""

import argparse
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta.model import RobertaModel, base_architecture
from fairseq.utils import safe_getattr
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError
from fairseq_scl.models.pooling import POOLINGS, pooled

BERT_EPS = 1e-12


@register_model("roberta_bert")
class RobertaBertModel(RobertaModel):
    """RoBERTa with ``--layer-norm-eps`` and ``--head-pooling``.

    Attributes:
        head_pooling: what the classification heads read: ``cls`` or ``mean``.
    """

    head_pooling: str

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add the stock model's flags, ``--layer-norm-eps`` and ``--head-pooling``."""
        RobertaModel.add_args(parser)
        parser.add_argument(
            "--layer-norm-eps",
            type=float,
            metavar="E",
            help="added to the variance in each layer norm of the encoder (default: "
            f"set by the architecture, {BERT_EPS} for BERT and 1e-05 for RoBERTa)",
        )
        parser.add_argument(
            "--head-pooling",
            metavar="WHAT",
            help="input of the classification head: cls = the final state at <s>, mean "
            "= the mean of the final states over the tokens (default: cls)",
        )

    @classmethod
    @exit_on_input_error()
    def build_model(cls, args: Any, task: Any) -> "RobertaBertModel":
        """Build the stock model and apply both settings.

        Raises:
            InputError: ``--layer-norm-eps`` is not above 0, or ``--head-pooling`` is
                unknown.
        """
        if args.head_pooling not in POOLINGS:
            raise InputError(
                f"--head-pooling is {args.head_pooling!r}: it must be one of "
                f"{', '.join(POOLINGS)}"
            )
        if not args.layer_norm_eps > 0:
            raise InputError(
                f"--layer-norm-eps is {args.layer_norm_eps}: it must be above 0"
            )
        model: RobertaBertModel = super().build_model(args, task)
        model.head_pooling = str(args.head_pooling)
        for module in model.encoder.modules():
            # fairseq prefers Apex's fused layer norm, which is not an nn.LayerNorm.
            if isinstance(module, nn.LayerNorm) or "LayerNorm" in type(module).__name__:
                module.eps = args.layer_norm_eps
        return model

    def register_classification_head(
        self,
        name: str,
        num_classes: int | None = None,
        inner_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a head of the stock model that reads this model's pooling."""
        super().register_classification_head(name, num_classes, inner_dim, **kwargs)
        if self.head_pooling == "mean":
            head = self.classification_heads[name]
            head.register_forward_pre_hook(_refuse_tokens)

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Run the stock model; a head gets the mean with ``--head-pooling mean``.

        Arguments and outputs are those of the stock model.
        """
        name, reads_mean = classification_head_name, self.head_pooling == "mean"
        stock: Any = super().forward
        output: tuple[Tensor, dict[str, Any]]
        if name is None or not reads_mean:
            hiddens = return_all_hiddens
            output = stock(src_tokens, features_only, hiddens, name, **kwargs)
            return output
        states, extra = self.encoder(src_tokens, True, return_all_hiddens, **kwargs)
        pad = self.encoder.dictionary.pad()
        mean = pooled(states, src_tokens, pad, "mean").to(states.dtype)
        return self.classification_heads[name](mean[:, None]), extra

    def packed_forward(
        self, states: Any, head: str, **_: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Like ``forward``; see :class:`fairseq_scl.packing.encoder.ReadsStates`."""
        (state,) = states(top=self.head_pooling)
        return self.classification_heads[head](state[:, None]), {"inner_states": None}


def _refuse_tokens(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse the states of all tokens, of which a head would use the first.

    ``RobertaHubInterface.predict`` passes them.
    """
    if inputs[0].shape[1] != 1:
        raise ValueError(
            "this classification head reads the mean over the tokens: use "
            "model(tokens, classification_head_name=...) or 'fairseq-scl predict'"
        )


@register_model_architecture("roberta_bert", "roberta_bert")
def roberta_bert_architecture(args: Any) -> None:
    """Set the defaults: BERT-base."""
    args.layer_norm_eps = safe_getattr(args, "layer_norm_eps", BERT_EPS)
    args.head_pooling = safe_getattr(args, "head_pooling", "cls")
    base_architecture(args)
