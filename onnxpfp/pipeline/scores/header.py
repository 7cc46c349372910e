"""What a file of scores is of: the network, how it was measured, and the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from onnxpfp.counted import counted
from onnxpfp.data.shards import Shard
from onnxpfp.pipeline.strict_fields import DamagedError, Fields

__all__ = ["ScoredSamples", "ScoresHeader", "missing_shards"]


@dataclass(frozen=True, slots=True)
class ScoresHeader:
    """The settings that files must agree in to be merged, and a pruning to use one.

    Attributes:
        version: Of onnxpfp.
        model: sha256 of the model's file.
        kernel: What of a window a sensitivity takes: sum or max.
        guard: The share of the largest sum of a sample from which on a smaller one counts as zero.
        seed: Of the split of the samples and of drawn positions.
        attention: What goes from an attention: heads or width.
        include: Patterns of what may be pruned.
        exclude: Patterns of what may not.
        inputs: Input shapes of one sample.
    """

    version: str
    model: str
    kernel: str
    guard: float
    seed: int
    attention: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]

    def differences(self, other: ScoresHeader) -> Iterator[tuple[str, str]]:
        """Yield what this one says of every setting that differs, and what the other does, in words."""
        for part in fields(self):
            mine, theirs = (getattr(each, part.name) for each in (self, other))
            if mine != theirs:
                yield _words(part.name, mine), _words(part.name, theirs)

    def to_dict(self) -> dict[str, Any]:
        """Return it in types that JSON knows."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        inputs = {name: list(shape) for name, shape in self.inputs.items()}
        return plain | {"include": list(self.include), "exclude": list(self.exclude), "inputs": inputs}

    @classmethod
    def read(cls, header: Fields) -> ScoresHeader:
        """Read what `to_dict` gave.

        Raises:
            DamagedError: It is something else.
        """
        shapes = header.inner("inputs")
        inputs = {name: whole_numbers(shapes.listed(name), f"'inputs' of {header.title}") for name in shapes.raw}
        return cls(
            version=header.text("version"),
            model=header.text("model"),
            kernel=header.text("kernel"),
            guard=header.number("guard", 1.0),
            seed=header.count("seed", 0),
            attention=header.text("attention"),
            include=tuple(map(str, header.listed("include"))),
            exclude=tuple(map(str, header.listed("exclude"))),
            inputs=inputs,
        )


def whole_numbers(values: Sequence[object], title: str) -> tuple[int, ...]:
    """Return whole numbers that are not negative.

    Args:
        values: What they should be.
        title: What a message calls them.

    Raises:
        DamagedError: One is something else.
    """
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value >= 0]
    if len(numbers) < len(values):
        raise DamagedError(f"{title} has what is no whole number")
    return tuple(numbers)


def _words(name: str, value: Any) -> str:
    """Say a setting as a message has it."""
    if name == "version":
        return f"by onnxpfp {value}"
    if name == "model":
        return f"of the model with the sha256 {value[:12]}..."
    if name == "guard":
        return f"with a guard of {value:g}"
    if name == "inputs":
        return "at the shapes " + ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in value.items())
    if name in {"include", "exclude"}:
        return f"with --{name} " + " ".join(f"'{pattern}'" for pattern in value) if value else f"without --{name}"
    return f"with --{name} {value}"


@dataclass(frozen=True, slots=True)
class ScoredSamples:
    """Samples that one run would score, and how far they have been.

    Attributes:
        digest: Of all of them, in hexadecimal.
        samples: How many there are.
        scored: How many have been scored.
        shards: The shards that have been, ascending.
        independent: Whether no two of them are steps of one sequence.
    """

    digest: str
    samples: int
    scored: int
    shards: tuple[Shard, ...]
    independent: bool

    def merge(self, other: ScoredSamples) -> ScoredSamples:
        """Return both, of other shards of the same samples."""
        shards = tuple(sorted(self.shards + other.shards, key=lambda shard: (shard.of, shard.number)))
        independent = self.independent and other.independent
        return ScoredSamples(self.digest, self.samples, self.scored + other.scored, shards, independent)

    def to_dict(self) -> dict[str, Any]:
        """Return it in types that JSON knows."""
        shards = [[shard.number, shard.of] for shard in self.shards]
        return {
            "digest": self.digest,
            "samples": self.samples,
            "scored": self.scored,
            "shards": shards,
            "independent": self.independent,
        }

    @classmethod
    def read(cls, each: Fields) -> ScoredSamples:
        """Read what `to_dict` gave.

        Raises:
            DamagedError: It is something else.
        """
        shards: list[Shard] = []
        for pair in each.listed("shards"):
            both = cast("list[object]", pair) if isinstance(pair, list) else []
            numbers = whole_numbers(both, f"'shards' of {each.title}")
            if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
                raise DamagedError(f"'shards' of {each.title} has {pair!r}, which is none")
            shards.append(Shard(*numbers))
        counts = each.count("samples", 1), each.count("scored", 0)
        return cls(each.text("digest"), *counts, tuple(shards), each.truth("independent"))


def missing_shards(data: Sequence[ScoredSamples]) -> str:
    """Say which shards of the samples are missing; empty where all have been scored."""
    missing: list[str] = []
    for each in data:
        if each.scored == each.samples:
            continue
        counts = {shard.of for shard in each.shards}
        if len(counts) == 1:
            of = counts.pop()
            there = {shard.number for shard in each.shards}
            missing += [str(Shard(number, of)) for number in range(1, of + 1) if number not in there]
        else:
            missing.append(f"{each.samples - each.scored} of {counted(each.samples, 'sample')}")
    return ", ".join(missing)
