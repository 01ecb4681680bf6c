"""``roberta_multi_exit``: RoBERTa with a classification head after chosen layers.

The encoder is fairseq's own, so any published RoBERTa loads into it; the heads have
weights in addition to the stock model's. ACL-CL is designed for multi-exit BERT (after
Li and Zhu 2026, arXiv 2602.03563); its abstract does not say which layers have an exit.
"""

import argparse
from collections.abc import Sequence
from typing import Any, cast

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta.model import base_architecture, roberta_large_architecture
from fairseq.utils import safe_getattr
from torch import Tensor

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_choice
from fairseq_scl.errors import InputError
from fairseq_scl.models.exits import SHALLOW_HEAD, shallow_head
from fairseq_scl.models.pooling import POOLINGS, pooled
from fairseq_scl.models.roberta_bert import BERT_EPS, RobertaBertModel

NAME = "roberta_multi_exit"
STOCK_EPS = 1e-5
# Keys of the model's ``extra`` output.
EXIT_LOGITS, EXIT_FEATURES = "exit_logits", "exit_features"


@register_model(NAME)
class RobertaMultiExitModel(RobertaBertModel):
    """RoBERTa with classification heads after several of its layers.

    Attributes:
        exit_layers: the layers that have a head, counted from 1; the last is the top.
        exit_pooling: input of the heads below the top: ``cls`` or ``mean``.
    """

    exit_layers: tuple[int, ...]
    exit_pooling: str

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add the stock model's flags, ``--layer-norm-eps`` and those of the exits."""
        RobertaBertModel.add_args(parser)
        parser.add_argument(
            "--exit-layers",
            metavar="LAYERS",
            help="layers followed by a classification head, such as 2,4,6, counted "
            "from 1; the top layer always has one (default: all)",
        )
        parser.add_argument(
            "--exit-pooling",
            metavar="WHAT",
            help="input of the heads below the top: cls = the state at <s>, as for the "
            "top head; mean = the mean over the tokens, for encoders in whose lower "
            "layers <s> is nearly the same for all sentences (default: cls)",
        )

    @classmethod
    @exit_on_input_error()
    def build_model(cls, args: Any, task: Any) -> "RobertaMultiExitModel":
        """Build the encoder and record its exits; the task registers the heads.

        Raises:
            InputError: ``--exit-layers`` or ``--exit-pooling`` is invalid, or a flag is
                not supported with exits.
        """
        model = cast(RobertaMultiExitModel, super().build_model(args, task))
        count = len(model.encoder.sentence_encoder.layers)
        _check(args)
        model.exit_layers = parse_exit_layers(args.exit_layers, count)
        model.exit_pooling = str(args.exit_pooling)
        return model

    def register_classification_head(
        self,
        name: str,
        num_classes: int | None = None,
        inner_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the head of the top exit and one like it for each other exit."""
        register = super().register_classification_head
        register(name, num_classes, inner_dim, **kwargs)
        if SHALLOW_HEAD.search(name):
            return
        for layer in self.exit_layers[:-1]:
            register(shallow_head(name, layer), num_classes, inner_dim, **kwargs)

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        exits: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Run the stock model, or with ``exits`` return the outputs of every exit.

        ``exits`` is the kind of features to return, ``cls`` or ``pooled``, and needs a
        head; see :meth:`exit_outputs`. The other arguments are the stock model's.
        """
        if exits is None or classification_head_name is None:
            output: tuple[Tensor, dict[str, Any]] = super().forward(
                src_tokens,
                features_only,
                return_all_hiddens,
                classification_head_name,
                **kwargs,
            )
            return output
        _, extra = self.encoder(src_tokens, True, True, **kwargs)
        # (T, B, D); the first is the embedding
        *below, top = (extra["inner_states"][layer] for layer in self.exit_layers)
        pad, kind = self.encoder.dictionary.pad(), self.exit_pooling
        states = [
            pooled(tokens.transpose(0, 1), src_tokens, pad, kind).to(top.dtype)
            for tokens in below
        ]
        return self.exit_outputs([*states, top[0]], classification_head_name, exits)

    def packed_forward(
        self, states: Any, head: str, exits: str | None = None, **_: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Like ``forward``; see :class:`fairseq_scl.packing.encoder.ReadsStates`."""
        if exits is None:
            return super().packed_forward(states, head)
        mean = self.exit_pooling == "mean"
        return self.exit_outputs(states(self.exit_layers, mean), head, exits)

    def exit_outputs(
        self, states: Sequence[Tensor], head: str, kind: str
    ) -> tuple[Tensor, dict[str, Any]]:
        """Compute the heads of all exits.

        Args:
            states: ``(B, D)`` for each exit, the input of its head.
            head: name of the top head.
            kind: kind of features, as in
                :func:`fairseq_scl.models.features.classification_features`.

        Returns:
            the logits of the top exit ``(B, C)``, and ``exit_logits`` ``(B, E, C)`` and
            ``exit_features`` ``(B, E, D)`` of all E exits, from the lowest to the top.
        """
        names = [shallow_head(head, layer) for layer in self.exit_layers[:-1]]
        outputs = [
            _head_outputs(self.classification_heads[name], state, kind)
            for name, state in zip([*names, head], states, strict=True)
        ]
        logits = torch.stack([logits for logits, _ in outputs], dim=1)
        features = torch.stack([features for _, features in outputs], dim=1)
        extra = {"inner_states": None, EXIT_LOGITS: logits, EXIT_FEATURES: features}
        return logits[:, -1], extra


def parse_exit_layers(value: Any, layers: int) -> tuple[int, ...]:
    """Return the layers in ``--exit-layers`` and the top layer, in ascending order.

    Raises:
        InputError: the value is neither ``all`` nor comma-separated numbers from 1.
    """
    if value == "all":
        return tuple(range(1, layers + 1))
    words = [word.strip() for word in str(value).split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= layers for word in words):
        raise InputError(
            f"--exit-layers is {value!r}: it must be 'all' or numbers from 1 to "
            f"{layers}, the layers of the encoder, separated by commas"
        )
    return tuple(sorted({*map(int, words), layers}))


def _head_outputs(head: Any, state: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return logits and features of one head; ``pooled`` is the input of out_proj."""
    read: list[Tensor] = []
    handle = head.out_proj.register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0])
    )
    try:
        logits = head(state[:, None])
    finally:
        handle.remove()
    return logits, state if kind == "cls" else read[0]


def _check(args: Any) -> None:
    check_choice(args, "exit_pooling", POOLINGS)
    if args.head_pooling != "cls":
        raise InputError(
            f"--head-pooling {args.head_pooling} cannot be combined with --arch "
            "roberta_multi_exit, whose top head reads <s>; allowed: cls, and "
            "--exit-pooling mean for the heads below"
        )
    for given, flag in (
        (safe_getattr(args, "encoder_layerdrop", 0) > 0, "--encoder-layerdrop"),
        (
            safe_getattr(args, "encoder_normalize_before", False),
            "--encoder-normalize-before",
        ),
    ):
        if given:
            raise InputError(
                f"{flag} cannot be combined with --arch roberta_multi_exit, whose "
                "heads read the output of each layer as it is"
            )


@register_model_architecture(NAME, "roberta_multi_exit")
def roberta_multi_exit_architecture(args: Any) -> None:
    """Set the defaults: RoBERTa-base, all exits."""
    args.layer_norm_eps = safe_getattr(args, "layer_norm_eps", STOCK_EPS)
    args.exit_layers = safe_getattr(args, "exit_layers", "all")
    args.exit_pooling = safe_getattr(args, "exit_pooling", "cls")
    args.head_pooling = safe_getattr(args, "head_pooling", "cls")
    base_architecture(args)


@register_model_architecture(NAME, "roberta_multi_exit_base")
def roberta_multi_exit_base_architecture(args: Any) -> None:
    """RoBERTa-base with exits."""
    roberta_multi_exit_architecture(args)


@register_model_architecture(NAME, "roberta_multi_exit_large")
def roberta_multi_exit_large_architecture(args: Any) -> None:
    """RoBERTa-large with exits."""
    roberta_large_architecture(args)
    roberta_multi_exit_architecture(args)


@register_model_architecture(NAME, "roberta_multi_exit_bert")
def roberta_multi_exit_bert_architecture(args: Any) -> None:
    """The encoder of ``roberta_bert`` (BERT's epsilon) with exits."""
    args.layer_norm_eps = safe_getattr(args, "layer_norm_eps", BERT_EPS)
    roberta_multi_exit_architecture(args)
