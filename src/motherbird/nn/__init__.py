"""The encoder and its heads in PyTorch: forward, backward, checkpoints."""
