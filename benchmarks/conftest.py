"""What pytest finds here for the cases: the hooks and fixtures of `lenet.suite`."""

from lenet.suite.plugin import *  # noqa: F403
