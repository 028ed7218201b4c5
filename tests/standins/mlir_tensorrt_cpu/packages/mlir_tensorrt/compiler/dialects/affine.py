"""The affine dialect's one name that nvtripy uses."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Attribute


class AffineMap:
    """A map of dimensions."""

    @staticmethod
    def get_permutation(permutation: Sequence[int]) -> Attribute:
        """A permutation, kept as the list of its dimensions."""
        return Attribute(list(permutation))
