"""Pretraining runs, and the training loop for everything else."""
