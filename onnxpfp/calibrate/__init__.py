"""Calibration: the network runs over samples, and observers collect statistics of its tensors."""
