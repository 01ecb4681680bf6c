"""Criteria with trainable parameters of their own.

fairseq trains them with the model's parameters. The checkpoint stores them under
``criterion``, not under ``model``: they are not part of the classifier.
"""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


class LearnsParameters:
    """Mixin that loads a criterion's parameters if the checkpoint has them."""

    state_dict: Any

    def load_state_dict(
        self, state_dict: Mapping[str, Any] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load the parameters, or keep the initial ones with a warning.

        The checkpoint of a pre-trained encoder does not have them, and those of another
        criterion or another number of classes do not fit. fairseq does the same for
        classification heads. ``state_dict`` is ``criterion`` of the checkpoint, or
        ``None`` if it is missing.
        """
        wanted = {name: value.shape for name, value in self.state_dict().items()}
        found = {name: value.shape for name, value in (state_dict or {}).items()}
        if found != wanted:
            if found:
                logger.warning(
                    "the criterion's parameters are initialized again: the checkpoint "
                    f"has {_words(found)}, not {_words(wanted)}"
                )
            return None
        parent: Any = super()
        return parent.load_state_dict(state_dict or {}, *args, **kwargs)


def _words(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
