"""LeNet, one module a framework, and its weights for images as bytes."""
