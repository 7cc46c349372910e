"""The result for people and programs."""
