"""Numbers of things in words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import onnxpfp
from onnxpfp.counted import counted

PACKAGE = Path(onnxpfp.__file__).parent


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("sample",), "0 samples"),
        (1, ("held-out sample",), "1 held-out sample"),
        (2, ("held-out sample",), "2 held-out samples"),
        (1, ("class", "classes"), "1 class"),
        (6625, ("class", "classes"), "6,625 classes"),
        (1, ("group was", "groups were"), "1 group was"),
    ],
)
def test_one_and_several(number: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text


PLURALS = re.compile(
    r"^ (held-out |calibration |cut )?(samples|groups|layers|runs|models|images|files|shapes)\b(?! it)"
)
SEVERAL = {
    # What is in their way, or told at all, is that there are more than one.
    "runs of {batch} samples, and ",
    "the model runs {count} samples at once",
    ", {latency.samples} samples in each",
    "every one of these {len(bounded)} layers at once",
    "samples are used, in runs of the {together}",
    "all {samples} samples that are",
    "chose among {promises.candidates} files",
    "the model takes {self.fixed_batch} samples at a time",
    "takes more of the {total:,} images",
    "on at most {UNIT_SAMPLES} samples",
    # What tells of mistakes in a program, and what was typed.
    "{len(demands)} demands for {cost.n_groups} groups",
    "a batch of {asked} samples",
    "{agree} of {samples} samples is no count",
}


def counts_in(path: Path) -> list[str]:
    """Texts that put a number before a plural."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for one, two in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(one, ast.FormattedValue)
                    and isinstance(one.value, ast.Call | ast.Name | ast.Attribute | ast.BinOp)
                    and isinstance(two, ast.Constant)
                    and PLURALS.match(str(two.value))
                    and not (isinstance(one.value, ast.Call) and ast.unparse(one.value.func) == "counted")
                ):
                    found.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}")
    return found


def test_no_text_says_1_samples() -> None:
    found = [text for path in sorted(PACKAGE.rglob("*.py")) for text in counts_in(path)]
    assert not [text for text in found if not any(known in text for known in SEVERAL)]
    assert all(any(known in text for text in found) for known in SEVERAL)
