"""Prunability of trained networks: of weights and of channels, with labels and without."""
