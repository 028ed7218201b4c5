"""LeNet, once for each framework."""
