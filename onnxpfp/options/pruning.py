"""Options of a pruning, and its target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from onnxpfp.errors import OptionError
from onnxpfp.options.checks import (
    check_at_least_one,
    check_confidence,
    check_milliseconds,
    check_promised_error,
    check_promised_share,
    check_share,
    check_size,
    check_structure,
)
from onnxpfp.options.classes import ClassOptions, check_class_options
from onnxpfp.options.declaration import declare, declared
from onnxpfp.options.features import FeatureOptions
from onnxpfp.options.run import RunOptions
from onnxpfp.options.shares import ShareOptions

__all__ = ["DEFAULT_KEEP_MACS", "UNKNOWN", "Options", "PruningOptions"]


DEFAULT_KEEP_MACS = 0.7
"""Share of the MACs that stays where no target is given."""
ALL_STRUCTURES = "channels,rank,blocks"
"""Everything that may go."""
UNKNOWN = 0.0
"""Share of a target in other units, before what it is a share of is known."""
_KEEP = "keep_"
"""How the fields of targets begin that are the share of something that stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningOptions(ShareOptions, ClassOptions, FeatureOptions, RunOptions):
    """Options of the verbs that prune, without a target: those of a run, of classes, and the shares of layers."""

    confidence: float = declare(
        0.95,
        "Confidence of what is promised of the written file by held-out samples.",
        "data",
        metavar="P",
        check=check_confidence,
    )
    structure: str = declare(
        "auto",
        "What may go, separated by commas: channels of a group (channels); with them ranks of layers, which become two "
        "ops with fewer multiply-adds together (rank); all channels of a group and the branch that they lie in, of "
        "which a constant is left (blocks). All of it is chosen as one by measured drift, so rank and blocks take data "
        "and --allocate measured. rank goes with no --latency-table; with --min-channels above 1 no block goes. auto: "
        "all three for a target of latency, where nothing that is asked for speaks against it, for at one latency they "
        "keep most; else channels, for what has fewer multiply-adds by lower ranks is often slower.",
        "choice",
        metavar="auto|channels[,rank][,blocks]",
        check=check_structure,
    )
    effort: Literal["low", "normal", "high"] = declare(
        "normal",
        "How much to refit: each layer by itself (low); layers together with those that read them, too, by up to nine "
        "gradient steps each, where that pays most, for a few forward passes in all, or beside ranks "
        "everywhere (normal); or all of them, on twice the rows, in up to four sweeps over the network as long as the "
        "error on samples kept out of the fit falls, once channels were exchanged by what refits leave (high). With "
        "--structure channels,rank a layer of low rank takes as many steps of each of its two ops, channels are "
        "exchanged with normal, too, and two or four other shares of channels and ranks are refitted, ranks alone "
        "among them, of which what drifts least is taken, but for low and for a target of latency. high takes data, "
        "and --compensate auto or lstsq.",
        "choice",
        choices=("low", "normal", "high"),
    )
    steps: int = declare(
        1,
        "Prune in N steps, and measure scores and widths anew at each. With ranks every step after the first goes over "
        "the result instead: each group and each layer in turn is cut less or more, all is refitted, and what drifts "
        "less is taken, which takes one to two refits for each of them.",
        "choice",
        metavar="N",
        check=check_at_least_one,
    )
    latency_batch: int = declare(
        1, "Measure latency with N samples in a run.", "runtime", metavar="N", check=check_at_least_one
    )
    no_latency: bool = declare(
        False, "Do not measure the latency; measuring takes at most 3 s, or 5 % of the run if that is more.", "runtime"
    )
    no_metadata: bool = declare(
        False,
        "Do not note in the metadata of the file what made it: version, checksum of the input, target, options, "
        "agreement; such notes of earlier steps go, too.",
        "runtime",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(PruningOptions):
    """Options of a pruning, and its target."""

    keep_macs: float | None = declare(
        None,
        "Keep this share of the multiply-adds, in (0, 1].",
        "target",
        metavar="F",
        default_text="0.7",
        check=check_share,
    )
    keep_params: float | None = declare(
        None, "Keep this share of the parameters, in (0, 1].", "target", metavar="F", check=check_share
    )
    keep_size: float | None = declare(
        None,
        "Write a file of at most so many bytes, weights in other files counted: 4MB, 512kB, 1.5MiB (in Python a number "
        "above 1); or of this share of the original's, in (0, 1]. A file that is small enough stays as it is.",
        "target",
        metavar="SIZE",
        form="share or size",
        check=check_size,
    )
    keep_latency: float | None = declare(
        None,
        "Keep this share of the latency of a run, in (0, 1]: the widths are chosen by the time that the ops were "
        "measured to take, and the result is measured.",
        "target",
        metavar="F",
        check=check_share,
    )
    latency_ms: float | None = declare(
        None,
        "Prune until a run takes so many milliseconds, as --keep-latency does.",
        "target",
        metavar="MS",
        check=check_milliseconds,
    )
    max_drift: float | None = declare(
        None,
        "Prune as much as held-out samples allow to promise, with --confidence, that the relative error of the outputs "
        "for one input, counted as 1 where it is more, is at most X in the mean over inputs.",
        "target",
        metavar="X",
        check=check_promised_error,
    )
    min_agreement: float | None = declare(
        None,
        "Prune as much as held-out samples allow to promise, with --confidence, that at least a share A of inputs keep "
        "their top-1 class. 0.95 takes 59 held-out samples without a flip, 93 with one, 124 with two; 0.99 takes 299, "
        "473, 628.",
        "target",
        metavar="A",
        check=check_promised_share,
    )
    latency_table: str | None = declare(
        None,
        "Take the times of the ops from this table, which `onnxpfp latency` measured on the device that the model is "
        "for; without it they are measured here.",
        "target",
        metavar="FILE.json",
        modifies=True,
    )

    def __post_init__(self) -> None:
        if self.latency_table is not None and self.target[0] != "latency":
            raise OptionError("--latency-table goes with --keep-latency or --latency-ms")
        if self.latency_table is not None and self.keep_classes is not None:
            raise OptionError(
                "--latency-table has the times of the model with all its classes, and with --keep-classes what is left "
                "of it is pruned",
                hint="leave it out, or drop the classes first (--keep-classes LIST --keep-macs 1), then measure the "
                "table of that file and prune it",
            )
        targets = self._targets()
        if len(targets) > 1:
            raise OptionError(f"give one target: {' or '.join(targets)}, not {'both' if len(targets) == 2 else 'all'}")
        RunOptions.__post_init__(self)
        check_class_options(self.keep_classes, self.class_names, self.class_axes)
        self._check_features()
        if self.share:
            self.check_share(self.limit_flag, self.structure)
        if self.ranked:
            self._check_ranks()
        if self.effort == "high":
            self._check_refits(f"--effort {self.effort}")
        if self.drops_blocks and self.allocate in {"bound", "uniform"}:
            raise OptionError(
                f"--structure {self.structure} goes with --allocate measured, for --allocate {self.allocate} does not "
                "tell what the network is without a block"
            )
        if self.carry and self.limit_flag:
            raise OptionError(
                f"{self.limit_flag} promises something of new inputs, and with --carry samples are steps of a sequence "
                "and depend on each other"
            )
        if self.steps > 1 and self.limit_flag:
            raise OptionError("--max-drift and --min-agreement try many targets, so they go with --steps 1")
        if self.steps > 1 and self.select in {"sampled", "mixed"}:
            raise OptionError(f"--select {self.select} draws once, so it goes with --steps 1")

    @property
    def sets_widths(self) -> bool:
        """Whether the criterion sets the widths: it is told what goes, and no target is given."""
        return bool(self.removals) and not self._targets()

    def _check_features(self) -> None:
        """Refuse what feature statistics do not go with."""
        # A criterion that a user passes himself has its settings.
        score = self.score if isinstance(self.score, str) else type(self.score).__name__
        self.check_features(score, self.compensate)
        if self.sets_widths:
            structure = f"--structure {self.structure}" if self.ranked or self.drops_blocks else ""
            steps = "" if self.steps == 1 else f"--steps {self.steps}"
            self.check_widths((f"--allocate {self.allocate}" if self.allocate else "") or structure or steps)

    def _check_ranks(self) -> None:
        """Refuse what ranks are not chosen by."""
        if self.latency_table is not None:
            raise OptionError(
                "--structure rank goes with no --latency-table: a table has the times of ops at several widths, not "
                "those of two ops in the place of one",
                hint="leave the table out, on the device that the model is for, or give --structure channels,blocks",
            )
        if self.allocate not in {None, "measured"}:
            raise OptionError(f"--structure rank chooses ranks by measured drift, not by --allocate {self.allocate}")
        if self.steps > 1 and self.target[0] == "latency":
            raise OptionError(
                f"--structure rank with a target of latency takes --steps 1, not {self.steps}: of the files that more "
                "steps compare only one is measured"
            )
        self._check_refits("--structure rank")

    def _check_refits(self, flag: str) -> None:
        """Refuse what asks for refits where there are none."""
        if self.compensate not in {"auto", "lstsq"}:
            raise OptionError(f"{flag} refits layers by least squares: not with --compensate {self.compensate}")

    def choosing(self, *, measured: bool) -> Self:
        """Return the options with what may go, where that is left to the target.

        Args:
            measured: Whether the data are enough to measure the drift of the output.
        """
        if self.structure != "auto":
            return self
        latency = self.target[0] == "latency" and self.latency_table is None
        free = self.allocate in {None, "measured"} and self.compensate in {"auto", "lstsq"} and self.steps == 1
        if not (latency and free and measured):
            return replace(self, structure="channels")
        # A group that keeps a share of its channels cannot go.
        return replace(self, structure="channels,rank" if self.share else ALL_STRUCTURES)

    @property
    def ranked(self) -> bool:
        """Whether layers may become two of low rank."""
        return "rank" in self.structure.split(",")

    @property
    def drops_blocks(self) -> bool:
        """Whether whole branches may go."""
        return "blocks" in self.structure.split(",")

    @property
    def limit_flag(self) -> str:
        """The flag of the quality that the target limits; empty where it is a share."""
        if self.max_drift is not None:
            return "--max-drift"
        return "" if self.min_agreement is None else "--min-agreement"

    def _targets(self) -> list[str]:
        """Return the flags of the targets that are given."""
        options = declared(type(self))
        targets = ((name, option) for name, option in options if option.section == "target" and not option.modifies)
        return [option.flag_of(name) for name, option in targets if getattr(self, name) is not None]

    @property
    def target(self) -> tuple[str, float]:
        """The cost that the target counts (X of a field keep_X; `onnxpfp.pipeline.costs`), and the share that stays.

        Of a target that is no share, that is `UNKNOWN` until the original is measured, and where there is none because
        the criterion sets the widths.
        """
        if self.sets_widths:
            return "macs", UNKNOWN
        if self.latency_ms is not None:
            return "latency", UNKNOWN
        if self.keep_size is not None and self.keep_size > 1:
            return "size", UNKNOWN
        targets = (name for name, option in declared(type(self)) if option.section == "target")
        shares = ((name, getattr(self, name)) for name in targets if name.startswith(_KEEP))
        return next(
            ((name.removeprefix(_KEEP), share) for name, share in shares if share is not None),
            ("macs", DEFAULT_KEEP_MACS),
        )

    def keeping(self, share: float) -> Self:
        """Return the options with another share of what their target counts; the same where there is no target."""
        if self.sets_widths:
            return self
        return replace(self, **{"latency_ms": None, _KEEP + self.target[0]: share})
