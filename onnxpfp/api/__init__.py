"""The Python API: prune, inspect, prunability and saving a result, one file each."""
