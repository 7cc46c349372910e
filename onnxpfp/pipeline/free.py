"""Channels that cost nothing go first: what is pruned after that is the smaller network, which computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.calibrate import ProviderRequest
from onnxpfp.calibrate.describe import describe
from onnxpfp.channels import Ids
from onnxpfp.config import Options
from onnxpfp.lossless import Removal, edits_of, find_lossless
from onnxpfp.pipeline.clock import Clock
from onnxpfp.pipeline.origin import origin_of
from onnxpfp.pipeline.prepare import Data, Prepared, prepare
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.weights import stored_axes_of

__all__ = ["Free", "take_free"]


@dataclass(frozen=True, slots=True, eq=False)
class Free:
    """What is left when everything that costs nothing has gone.

    Attributes:
        prepared: The smaller model, understood anew; the model as it was where nothing went.
        removed: What went.
        origin: The channel of the model as it was for every one of the smaller.
    """

    prepared: Prepared
    removed: tuple[Removal, ...]
    origin: Ids

    @classmethod
    def nothing(cls, prepared: Prepared) -> Free:
        """Leave a model as it is."""
        return cls(prepared, (), np.arange(prepared.graph.count + 1))


def take_free(
    prepared: Prepared, data: Data, requests: Sequence[ProviderRequest], options: Options, clock: Clock
) -> Free:
    """Remove dead, constant and duplicate channels.

    Args:
        prepared: The model.
        data: Its samples; where they are none of the user's, only what the weights show goes.
        requests: Where to run.
        options: How to prune.
        clock: Counts the seconds.
    """
    model, graph, constants = prepared.source.model, prepared.graph, prepared.constants
    with clock.phase("lossless") as tell:
        readers = describe(model, graph, prepared.shapes, constants)
        places = stored_axes_of(model, graph, constants)
        found = find_lossless(
            model,
            graph,
            prepared.shapes,
            constants,
            readers,
            places,
            data.samples,
            trusted=data.given == "file",
            batch_size=data.batch_size,
            providers=requests,
            threads=options.threads,
            # One batch is looked at while the next is made.
            workspace_bytes=options.workspace // 2,
            progress=tell,
        )
        if not found.removed:
            return Free.nothing(prepared)
        edits = edits_of(model, graph, constants, readers, found, places, Edits())
        smaller = apply(model, graph, found.keep, edits, prepared.source.scratch)
    left = prepare(prepared.source.rewritten(smaller), data, options, clock)
    return Free(left, found.removed, origin_of(graph, found.keep, left.graph))
