"""A session whose large outputs lie in the same memory in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from onnxpfp.runtime.session import Session

__all__ = ["ReusedOutputs"]


@dataclass(slots=True, eq=False)
class ReusedOutputs:
    """A session on the CPU whose large outputs lie in the same memory in every run.

    Fresh memory is handed out page by page, which takes as long as a tenth of a forward pass.

    Attributes:
        session: What runs.
        outputs: Names of these outputs.
    """

    session: Session
    outputs: Sequence[str]
    _held: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    _fed: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; what came out of the run before is overwritten.

        Raises:
            ModelError: As in `Session.run`.
        """
        shapes = {name: array.shape for name, array in feeds.items()}
        if shapes == self._fed:
            return self.session.run_into(feeds, self._held)
        outputs = self.session.run(feeds)
        if not self._fed:
            self._fed = shapes
            self._held = {name: outputs[name] for name in self.outputs if outputs[name].flags.c_contiguous}
        return outputs
