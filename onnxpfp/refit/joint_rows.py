"""What a chain reads and should give at random places of the consumers' outputs, with all that lies under them.

Of each sample a window of a consumer's output is drawn, or single positions where nothing between slides a window. Then
places are followed back: under each lie taps of the consumer's input, under these those of the depthwise convolutions,
under these the columns of the producer. A place that several read is one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import AnyFloats, Arrays, Bools, Floats32, Ints
from onnxpfp.linear.columns import draw_positions, output_shape
from onnxpfp.linear.im2col import tap_sources
from onnxpfp.linear.ops import LinearOp
from onnxpfp.refit.joint_chains import Chain
from onnxpfp.refit.layer_rows import LayerRows, fits_together

__all__ = ["ChainRows", "Wanted", "chain_rows", "joined"]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a consumer should give.

    Attributes:
        reads: Rows of its input under each of its taps, (T, k); the number of rows where a tap reads nothing.
        targets: Wanted outputs, (T, g, o).
        threshold: Outputs at which the ReLU behind starts to pass, (T, g, o); None where no ReLU follows.
    """

    reads: Ints
    targets: Floats32
    threshold: Floats32 | None


@dataclass(frozen=True, slots=True, eq=False)
class ChainRows:
    """The rows of a chain in one batch.

    Attributes:
        columns: What the producer reads, (Q, g, k * c): taps first, then channels.
        reads: For each depthwise convolution rows of its input under each of its taps, as in `Wanted`.
        wanted: For each consumer what it should give.
    """

    columns: Floats32
    reads: tuple[Ints, ...]
    wanted: tuple[Wanted, ...]


def joined(batches: Sequence[ChainRows]) -> ChainRows:
    """Return the rows of several batches as those of one."""
    if len(batches) == 1:
        return batches[0]
    # Rows of the producer's outputs, and of what each depthwise convolution makes.
    sizes = [[len(each.columns), *(len(read) for read in each.reads)] for each in batches]
    reads = [
        _behind_each_other([each.reads[number] for each in batches], [size[number] for size in sizes])
        for number in range(len(batches[0].reads))
    ]
    wanted: list[Wanted] = []
    for number in range(len(batches[0].wanted)):
        parts = [each.wanted[number] for each in batches]
        thresholds = [each.threshold for each in parts if each.threshold is not None]
        wanted.append(
            Wanted(
                _behind_each_other([each.reads for each in parts], [size[-1] for size in sizes]),
                np.concatenate([each.targets for each in parts]),
                np.concatenate(thresholds) if thresholds else None,
            )
        )
    return ChainRows(np.concatenate([each.columns for each in batches]), tuple(reads), tuple(wanted))


def _behind_each_other(reads: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    """Return reads of several batches, whose rows follow each other, so many each."""
    total, starts = sum(sizes), np.cumsum([0, *sizes])
    moved = zip(reads, sizes, starts[:-1], strict=True)
    return np.concatenate([np.where(read == size, total, read + start) for read, size, start in moved])


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Places of a tensor that are read, of all samples.

    Attributes:
        samples: Sample of each, (R,).
        positions: Flat position of each among the axes without samples and channels, (R,).
    """

    samples: Ints
    positions: Ints


def chain_rows(
    chain: Chain,
    members: Sequence[LayerRows],
    groups: int,
    per_sample: int,
    shown: Arrays,
    given: Arrays,
    rng: np.random.Generator,
) -> ChainRows | None:
    """Draw the rows of one batch; None where a tensor is empty, or samples do not match.

    Args:
        chain: The chain.
        members: The consumers, with their targets.
        groups: Convolution groups of the producer that keep anything.
        per_sample: Positions of a consumer's output that are drawn of one sample.
        shown: Activations of the original.
        given: Activations of the pruned network.
        rng: Source of the positions.
    """
    data = given[chain.producer.consumer.data]
    shapes = [output_shape(chain.producer.op, data.shape)]
    for layer in chain.depthwise:
        shapes.append(output_shape(layer.op, shapes[-1]))
    outputs = [shown[next(iter(member.shows()))].shape for member in members]
    if 0 in data.shape or any(0 in shape for shape in outputs):
        return None
    pairs = zip(chain.consumers, outputs, strict=True)
    if not all(fits_together(layer, given[layer.consumer.data].shape, shape) for layer, shape in pairs):
        return None
    sliding = any(layer.op.kernel_size > 1 for layer in (*chain.consumers, *chain.depthwise))
    drawn: dict[tuple[int, ...], Ints] = {}
    under: list[tuple[Ints, Bools | None]] = []
    rows: list[tuple[Floats32, Floats32 | None]] = []
    for member, shape in zip(members, outputs, strict=True):
        layer = member.layer
        spatial = tuple(size for number, size in enumerate(shape) if number not in (0, layer.axis))
        if spatial not in drawn:
            draw = _window if sliding and layer.op.kind != "matmul" else draw_positions
            drawn[spatial] = draw(shape, layer.axis, per_sample, rng)
        positions = drawn[spatial]
        rows.append(member.rows(shown, given, positions, tuning=True))
        flat = _Places(np.repeat(np.arange(len(positions)), positions.shape[1]), positions.ravel())
        under.append(_under(layer.op, shapes[-1], spatial, flat))
    places, reads = _merged(under, shapes[-1], data.shape[0])
    wanted = tuple(Wanted(each, *row) for each, row in zip(reads, rows, strict=True))
    links: list[Ints] = []
    for layer, shape, behind in zip(reversed(chain.depthwise), shapes[-2::-1], shapes[:0:-1], strict=True):
        places, (read,) = _merged([_under(layer.op, shape, behind[2:], places)], shape, data.shape[0])
        links.append(read)
    columns = _columns(chain.producer.op, data, chain.producer.consumer.data_axis, shapes[0], places)
    by_group = columns.reshape(len(columns), columns.shape[1], groups, -1).swapaxes(1, 2)
    return ChainRows(by_group.reshape(len(columns), groups, -1), tuple(reversed(links)), wanted)


def _window(shape: tuple[int, ...], axis: int, per_sample: int, rng: np.random.Generator) -> Ints:
    """Draw one window of about so many positions of every sample; arguments and result as `draw_positions`."""
    spatial = shape[axis + 1 :]
    sides, left = [0] * len(spatial), float(per_sample)
    for done, number in enumerate(sorted(range(len(spatial)), key=spatial.__getitem__)):
        sides[number] = min(spatial[number], max(1, round(left ** (1 / (len(spatial) - done)))))
        left = max(1.0, left / sides[number])
    starts = [rng.integers(0, size - side + 1, shape[0]) for size, side in zip(spatial, sides, strict=True)]
    grid = np.indices(sides).reshape(len(sides), -1)
    flat = np.zeros((shape[0], grid.shape[1]), np.int64)
    for number, start in enumerate(starts):
        flat = flat * spatial[number] + start[:, None] + grid[number]
    return flat


def _under(op: LinearOp, shape: tuple[int, ...], spatial: Sequence[int], places: _Places) -> tuple[Ints, Bools | None]:
    """Return flat places, of all samples, of an op's input under its taps at places of its output, (R, k)."""
    size = _positions(shape, op.kind == "matmul")
    if op.kind == "matmul":
        return (places.samples * size + places.positions)[:, None], None
    index, inside = tap_sources(op, shape[2:], spatial, places.positions)
    return places.samples[:, None] * size + index, inside


def _positions(shape: tuple[int, ...], matrix: bool) -> int:
    return math.prod(shape[1:-1]) if matrix else math.prod(shape[2:])


def _merged(
    under: Sequence[tuple[Ints, Bools | None]], shape: tuple[int, ...], samples: int
) -> tuple[_Places, list[Ints]]:
    """Return the places that any op reads, each once, ascending, and where among them each op reads."""
    size = math.prod(shape[1:])
    seen = np.zeros(samples * size, np.bool_)
    for index, inside in under:
        seen[index if inside is None else index[inside]] = True
    read = np.flatnonzero(seen)
    number = np.full(seen.size, read.size)
    number[read] = np.arange(read.size)
    where = [number[index] if inside is None else np.where(inside, number[index], read.size) for index, inside in under]
    return _Places(*np.divmod(read, size)), where


def _numbered(index: Ints, size: int) -> tuple[Ints, Ints]:
    """Return which of so many places are read, ascending, and where among them each of an index is."""
    seen = np.zeros(size, np.bool_)
    seen[index] = True
    read = np.flatnonzero(seen)
    number = np.empty(size, np.int64)
    number[read] = np.arange(read.size)
    return read, number[index]


def _columns(op: LinearOp, data: AnyFloats, axis: int, shape: tuple[int, ...], places: _Places) -> Floats32:
    """Return what an op reads at places of its output, (R, k, C)."""
    last = np.moveaxis(data, axis, -1)
    flat = last.reshape(len(last), -1, last.shape[-1])
    if op.kind == "matmul":
        return np.ascontiguousarray(flat[places.samples, places.positions][:, None], np.float32)
    index, inside = tap_sources(op, data.shape[2:], shape[2:], places.positions)
    # Windows overlap, and they are few: what lies under them is brought to the order of rows once, and nothing else.
    size = flat.shape[1]
    read, where = _numbered(places.samples[:, None] * size + index, len(flat) * size)
    taken = np.ascontiguousarray(flat[np.divmod(read, size)], np.float32)[where]
    if inside is not None:
        taken[~inside] = 0
    return taken
