"""CIFAR-10, the augmentation of its images, and synthetic images."""
