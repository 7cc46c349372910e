"""Verification: the pruned model against the masked original, and both against each other on samples."""
