"""CIFAR-10 and what is done to its images."""
