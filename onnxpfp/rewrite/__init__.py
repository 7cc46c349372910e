"""Apply a selection to the file."""

from __future__ import annotations

from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits, NewInput
from onnxpfp.rewrite.restore import call_again, restore

__all__ = ["Edits", "NewInput", "apply", "call_again", "restore"]
