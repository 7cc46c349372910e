"""The stages of a pruning, in order: analyze, calibrate and score, decide, build the candidate, verify."""
