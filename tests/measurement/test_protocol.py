from __future__ import annotations

import pytest

from lenet.measurement.protocol import Adaptive, Coursework, Stop

STEADY, NOISY = [1.0] * 50, [1.0, 2.0] * 25


class TestStopping:
    """At each bound, and just before it."""

    @pytest.mark.parametrize(
        ("valid", "attempts", "stop"),
        [
            (99, 99, None),
            (100, 100, Stop.ROUNDS),
            (0, 199, None),
            (0, 200, Stop.DISCARDED),
            (99, 200, Stop.DISCARDED),
            (100, 200, Stop.ROUNDS),
        ],
    )
    def test_the_coursework(self, valid: int, attempts: int, stop: Stop | None) -> None:
        assert Coursework().stop([1.0] * valid, attempts, 1e9) is stop

    @pytest.mark.parametrize(
        ("valid", "attempts", "elapsed", "stop"),
        [
            (STEADY[1:], 49, 0.0, None),
            (STEADY, 50, 0.0, Stop.PRECISE),
            (STEADY, 1000, 20.0, Stop.PRECISE),
            (NOISY, 50, 9.9, None),
            (NOISY, 50, 10.0, Stop.TIME),
            ([], 199, 0.3, None),
            ([], 200, 0.29, None),
            ([], 200, 0.3, Stop.DISCARDED),
            (NOISY * 2, 200, 0.3, None),
            (NOISY * 2, 201, 0.3, Stop.DISCARDED),
            (NOISY * 2, 201, 10.0, Stop.DISCARDED),
            (NOISY * 199, 9_950, 0.0, None),
            (NOISY * 200, 10_000, 0.0, Stop.ROUNDS),
        ],
    )
    def test_adaptive(self, valid: list[float], attempts: int, elapsed: float, stop: Stop | None) -> None:
        assert Adaptive().stop(valid, attempts, elapsed) is stop

    @pytest.mark.parametrize(("confidence", "stop"), [(0.95, Stop.PRECISE), (0.99, None)])
    def test_adaptive_is_as_confident_as_it_is_told(self, confidence: float, stop: Stop | None) -> None:
        """Of 50 rounds the interval ends at the 18th and the 33rd at 95 %, at the 16th and the 35th at 99 %."""
        ordered = [1.0] * 17 + [1.02] * 16 + [1.1] * 17
        valid = [value for pair in zip(ordered[25:], ordered[:25], strict=True) for value in pair]

        assert Adaptive(precision=0.0, confidence=confidence).stop(valid, 50, 0.0) is stop

    @pytest.mark.parametrize(("half", "stop"), [(0.0099, Stop.PRECISE), (0.0101, None)])
    def test_adaptive_wants_the_median_to_a_percent(self, half: float, stop: Stop | None) -> None:
        assert Adaptive().stop([1 - half, 1 + half] * 25, 50, 0.0) is stop

    def test_no_rounds_are_never_precise(self) -> None:
        assert Adaptive(minimum_rounds=0).stop([], 0, 0.0) is None
