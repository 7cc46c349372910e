"""Allocation: the cost of widths, the width of every group, and the choice of its channels. Pure numpy."""
