"""lowbit: compile PyTorch models to low precision."""
