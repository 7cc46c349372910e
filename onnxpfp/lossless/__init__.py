"""Channels that cost nothing to remove: dead, constant, negligible and duplicate ones; weights that cost only time."""

from onnxpfp.lossless.find import find_lossless
from onnxpfp.lossless.fold import edits_of
from onnxpfp.lossless.types import Lossless, Removal

__all__ = ["Lossless", "Removal", "edits_of", "find_lossless"]
