"""The stages of a pruning, in order: prepare, gather, decide, carry out, examine."""
