"""What is installed here, and what of it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.installation import ProviderState, SupportedFiles
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, Table, Title

__all__ = ["DoctorReport", "Problem"]

FORMAT, VERSION = "onnxpfp-doctor", 1


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is broken.

    Attributes:
        text: What.
        hint: What to do about it; empty where that is not known.
    """

    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What was found out about an installation.

    Attributes:
        versions: Of this program, Python and the packages; one that is missing has none.
        platform: The system and the kind of processor.
        device: The processor by name, and its cores.
        runtimes: All packages that bring onnxruntime; there should be one.
        providers: What became of every execution provider that this onnxruntime was built with, as it prefers them.
        written: The newest files that the installed onnx writes; None where it does not work.
        loaded: The newest files that the installed onnxruntime loads; likewise.
        cuda: What CUDA lacks here, in words; empty where it works.
        problems: What is broken.
        notes: What the user should know beside.
    """

    versions: Mapping[str, str]
    platform: str
    device: str
    runtimes: tuple[str, ...]
    providers: tuple[ProviderState, ...]
    written: SupportedFiles | None
    loaded: SupportedFiles | None
    cuda: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/doctor.md` describes the fields."""
        return {"format": FORMAT, "version": VERSION, "healthy": self.healthy, **plain(asdict(self))}

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show versions, then providers, then what is broken."""
        works = "works" if self.healthy else f"{len(self.problems)} broken"
        yield Title(f"onnxpfp {self.versions.get('onnxpfp', '')}: {works}".replace("  ", " "))
        yield Facts(self._facts())
        if self.providers:
            yield Heading("Execution providers")
            rows = [(each.name, "yes" if each.works else "no", _why(each)) for each in self.providers]
            yield Table((Column("provider"), Column("works"), Column("why not")), rows)
        if self.problems:
            yield Heading("What is broken")
            for problem in self.problems:
                yield Line(f"{problem.text}{f': {problem.hint}' if problem.hint else ''}")

    def _facts(self) -> dict[str, str]:
        versions = [f"{name} {version}" for name, version in self.versions.items() if name != "onnxpfp"]
        rows = {"platform": self.platform, "device": self.device, "versions": ", ".join(versions)}
        files = {"onnx writes": self.written, "onnxruntime loads": self.loaded}
        rows |= {
            title: f"opset {found.opset}, IR version {found.ir_version}, and older ones"
            for title, found in files.items()
            if found is not None
        }
        return rows | {"CUDA": self.cuda or "works"}


def _why(state: ProviderState) -> str:
    return state.reason + (f" ({state.hint})" if state.hint else "")
