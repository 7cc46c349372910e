"""Least-squares refit of linear ops: the original network's outputs from the pruned network's inputs."""
