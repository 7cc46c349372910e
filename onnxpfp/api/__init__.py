"""The Python API: prune, inspect, prunability, verify and saving a result, one file each."""
