"""Latency: measured in turns, as a table of a network at several widths, fitted to its ops, and as a target."""
