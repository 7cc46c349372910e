"""Fuzzing of what reads files of others; `python -m fuzz` from `tests/` runs it for as long as one likes."""
