"""The runtime's names, on CPU memory."""
