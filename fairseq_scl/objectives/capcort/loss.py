"""The consistency term after CAPCORT (Razdaibiedina et al. 2022, arXiv 2205.11603)."""

from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32


def representation_consistency_loss(pretrained: Tensor, mapped: Tensor) -> Tensor:
    """Squared distance of representations, after CAPCORT (arXiv 2205.11603).

    ``‖z_pre(x) - φ(z_fine(x))‖²``, summed over the examples x and the D dimensions: the
    change of the representation in fine-tuning that the map φ cannot undo. The abstract
    does not give the formula; the squared distance is reconstructed. ``pretrained``
    does not get a gradient. N = 0 gives 0.

    Args:
        pretrained: ``(N, D)``, z_pre, any floating dtype.
        mapped: ``(N, D)``, φ(z_fine), any floating dtype. The loss is computed in
            float32, or in float64 if either input is float64.

    Returns:
        a scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ.
    """
    if pretrained.dim() != 2 or pretrained.shape != mapped.shape:
        raise ValueError(
            "both representations must be (N, D), got shapes "
            f"{tuple(pretrained.shape)} and {tuple(mapped.shape)}"
        )
    change = at_least_float32(mapped) - at_least_float32(pretrained.detach())
    return change.square().sum()
