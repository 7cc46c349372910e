"""What pruning by measured latency brings: milliseconds, and the accuracy that they cost."""
