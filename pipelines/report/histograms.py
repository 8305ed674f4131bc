"""Histograms that grow with the values: shared bins, widths of powers of two, the same in any order of adding."""

import math
from collections.abc import Sequence

import numpy as np

MAX_BINS = 100
_FINEST = -10
# Bin numbers stay exact in float64.
_MAX_NUMBER = 2**40


class Histograms:
    """Counts of several series in bins that all of them share.

    The bins are 2**e wide with e as small as ``MAX_BINS`` allows (from 2**-10 on) and begin at multiples of
    their width. Doubling the width joins bins two by two, so no value has to be seen twice.

    Args:
        names: Names of the series.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._exponent = _FINEST
        self._counts: dict[str, dict[int, int]] = {name: {} for name in names}

    def add(self, name: str, values: np.ndarray) -> None:
        """Count finite values of any shape into the series ``name``."""
        if not values.size:
            return
        assert np.isfinite(values).all(), "a value is not finite"
        self._widen(float(values.min()), float(values.max()))
        numbers = np.floor(np.ravel(values) * 2.0**-self._exponent).astype(np.int64)
        first = int(numbers.min())
        mine = self._counts[name]
        for offset, count in enumerate(np.bincount(numbers - first).tolist()):
            if count:
                mine[first + offset] = mine.get(first + offset, 0) + count

    def _widen(self, low: float, high: float) -> None:
        known = [number for counts in self._counts.values() for number in counts]
        while True:
            ends = [math.floor(math.ldexp(end, -self._exponent)) for end in (low, high)]
            numbers = [*known, *ends]
            if max(numbers) - min(numbers) < MAX_BINS and max(map(abs, ends)) < _MAX_NUMBER:
                return
            self._exponent += 1
            known = [number >> 1 for number in known]
            for name, counts in self._counts.items():
                halved: dict[int, int] = {}
                for number, count in counts.items():
                    halved[number >> 1] = halved.get(number >> 1, 0) + count
                self._counts[name] = halved

    def rows(self, quantity: str) -> list[dict[str, object]]:
        """Return rows of schema HISTOGRAMS, empty bins between the first and the last included."""
        numbers = [number for counts in self._counts.values() for number in counts]
        if not numbers:
            return []
        width = 2.0**self._exponent
        return [
            {
                "method": name,
                "quantity": quantity,
                "bin_low": number * width,
                "bin_high": (number + 1) * width,
                "count": counts.get(number, 0),
            }
            for name, counts in self._counts.items()
            if counts
            for number in range(min(numbers), max(numbers) + 1)
        ]
