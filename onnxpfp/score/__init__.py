"""Scores: statistics and weights in, one number per channel out. Pure numpy."""
