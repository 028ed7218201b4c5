"""pytest plugin: look at the machine's limits for an instant, in runs that are not about how exact they are."""

from lenet.measurement import limits

limits._SECONDS = limits._ARITHMETIC_SECONDS = 1e-6  # type: ignore[misc]
