"""The hooks and fixtures of `lenet.suite`, which pytest finds here for the cases."""

from lenet.suite.fixtures import *  # noqa: F403
from lenet.suite.plugin import *  # noqa: F403
