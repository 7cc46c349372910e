"""The model file: constants, shapes, loading and saving."""
