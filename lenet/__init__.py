"""LeNet on CIFAR-10, measured across inference runtimes."""

__version__ = "0.1.0"
