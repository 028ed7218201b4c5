"""Training LeNet by the coursework's recipe, on a CPU, a GPU or several, with checkpoints that survive a kill."""
