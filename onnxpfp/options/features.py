"""Options of `--score feature-statistics`: which channels DFS and SFS take (`onnxpfp.score.feature_statistics`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxpfp.errors import OptionError
from onnxpfp.options.checks import check_cosine, check_dropped_share, check_threshold
from onnxpfp.options.declaration import declare

__all__ = ["FEATURE_STATISTICS", "FeatureOptions"]

FEATURE_STATISTICS = "feature-statistics"
"""The criterion that these options are of."""
_GIVE_TARGET = "give a target: --keep-macs 0.7"


# Without slots of its own, for a class may inherit those of one parent only.
@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Options of feature statistics."""

    dfs: float | None = declare(
        None,
        "Let this share of every group go, in [0, 1): the channels whose maps have the smallest mean standard "
        "deviation. Without a target --dfs, --dfs-threshold and --sfs set the widths, in steps of 1 unless --round-to "
        "is a number; with one they only say what goes first.",
        "choice",
        metavar="F",
        check=check_dropped_share,
    )
    dfs_threshold: float | None = declare(
        None,
        "Let the channels go whose mean standard deviation is less than T times the mean of their group.",
        "choice",
        metavar="T",
        check=check_threshold,
    )
    sfs: float | None = declare(
        None,
        "Of the two channels of a group whose maps are most alike let the one with the smaller mean standard deviation "
        "go, again and again until no two have a cosine of C or more, in (0, 1].",
        "choice",
        metavar="C",
        check=check_cosine,
    )
    maps: Literal["after", "before"] = declare(
        "after",
        "The maps that --score feature-statistics looks at: after the activation, as layers read them, or before, as "
        "the layer that brings them forth puts them out, behind its BatchNormalization.",
        "choice",
        choices=("after", "before"),
    )

    @property
    def removals(self) -> list[str]:
        """The flags that are given of those that say what goes."""
        values = {"--dfs": self.dfs, "--dfs-threshold": self.dfs_threshold, "--sfs": self.sfs}
        return [flag for flag, value in values.items() if value is not None]

    def verb(self, one: str, several: str) -> str:
        """Return the verb of a sentence about the flags that are given."""
        return one if len(self.removals) == 1 else several

    def check_features(self, score: str, compensate: str) -> None:
        """Refuse these options with another criterion, and what contradicts itself.

        Args:
            score: The name of the criterion.
            compensate: What makes up for dropped channels.
        """
        given = [*self.removals, *(["--maps"] if self.maps != "after" else [])]
        if given and score != FEATURE_STATISTICS:
            verb = "goes" if len(given) == 1 else "go"
            raise OptionError(f"{' and '.join(given)} {verb} with --score {FEATURE_STATISTICS}, not --score {score}")
        if self.dfs is not None and self.dfs_threshold is not None:
            raise OptionError("give --dfs or --dfs-threshold, not both")
        if compensate == "merge" and self.sfs is None:
            raise OptionError(
                "--compensate merge takes the cosine from which on channels are merged from --sfs, which is not given",
                hint=f"--score {FEATURE_STATISTICS} --sfs 0.95 --compensate merge",
            )

    def check_widths(self, asked: str) -> None:
        """Refuse what asks for widths, where these options set them.

        Args:
            asked: The flag with its value; empty where there is none.
        """
        if asked:
            who = f"{' and '.join(self.removals)} without a target {self.verb('sets', 'set')} the widths"
            raise OptionError(f"{who}, so not {asked}", hint=_GIVE_TARGET)
