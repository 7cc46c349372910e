"""Calibration data: the inputs of a model, samples in one form, and the sources that they come from."""
