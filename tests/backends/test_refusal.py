"""What a person is told where a library refuses the network."""

from __future__ import annotations

import pytest

from lenet.backends.refusal import refusal_of
from lenet.errors import BackendError


def test_a_library_s_error_is_told_with_its_version() -> None:
    with pytest.raises(BackendError) as caught, refusal_of("XLA", "jax", "0.10", "compiles for cpu"):
        raise RuntimeError("no such operator")
    assert str(caught.value) == (
        "XLA refuses the network\n"
        "  found:  no such operator\n"
        "  wanted: a network that jax 0.10 compiles for cpu\n"
        "  next:   try another version of jax"
    )
