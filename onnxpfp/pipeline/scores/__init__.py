"""Scores as files: what a calibration measures, kept for prunings to any number of targets."""
