"""Search for targets of quality on many draws of images, and count the files that do not hold them.

The files were pruned once, with training images. A search that asks for a percentage that is not among them gets the
next one below it, and none below the smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.promises.files import Candidate
from benchmarks.promises.rows import SearchRow
from benchmarks.promises.schemes import Places, Scheme
from onnxpfp.allocation.fixed_sequence import ShareTest, descend, order_of
from onnxpfp.allocation.search import WHOLE, Trial, search
from onnxpfp.arrays import Floats
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.pipeline.quality_target import QualityTarget

__all__ = ["search_rows"]

CONFIDENCE = 0.95
TUNING, HELD_OUT = 128, 256
DRAWS = Scheme(TUNING + HELD_OUT, False, 200)
TARGETS = tuple(
    QualityTarget(quantity, bound, CONFIDENCE)
    for quantity, bounds in (("agreement", (0.95, 0.9)), ("drift", (0.2, 0.3)))
    for bound in bounds
)

Way = Callable[[QualityTarget, Sequence[Candidate], Places, Places], Candidate | None]
"""Chooses a candidate by tuning and held-out images; None where none is good enough."""


def search_rows(
    model: str, candidates: Sequence[Candidate], targets: Sequence[QualityTarget] = TARGETS
) -> Iterator[SearchRow]:
    """Yield the rows of one network.

    Args:
        model: Its name.
        candidates: From mild to harsh.
        targets: What is searched for.
    """
    for target in targets:
        for name, way in WAYS.items():
            yield _row(model, candidates, target, name, way)


def promised(
    target: QualityTarget, candidates: Sequence[Candidate], tuning: Places, held_out: Places
) -> Candidate | None:
    """Choose as onnxpfp does."""

    def attempt(share: float) -> Trial:
        foreseen = target.foresee(_losses(target, _at(candidates, share), tuning), len(held_out))
        return Trial(share, foreseen.observed, foreseen.passed)

    def test(share: float) -> ShareTest:
        certified = target.certify(_losses(target, _at(candidates, share), held_out))
        return ShareTest(share, certified.observed, certified.bound, certified.passed)

    least = candidates[-1].percent / WHOLE
    passed = descend(order_of(search(attempt, least), least), test).passed
    return None if passed is None else _at(candidates, passed.share)


def observed(
    target: QualityTarget, candidates: Sequence[Candidate], tuning: Places, held_out: Places
) -> Candidate | None:
    """Go on while what is observed on all these images is what is asked for."""
    best = None
    for candidate in candidates:
        if not _holds(target, candidate, np.concatenate([tuning, held_out])):
            break
        best = candidate
    return best


WAYS: dict[str, Way] = {"onnxpfp": promised, "while it is observed": observed}


def _at(candidates: Sequence[Candidate], share: float) -> Candidate:
    """Return the file that stands for a share."""
    return next(each for each in candidates if each.percent <= round(WHOLE * share))


def _losses(target: QualityTarget, candidate: Candidate, places: Places) -> Floats:
    agree, errors = candidate.outcomes.agree, candidate.outcomes.errors
    assert agree is not None
    assert errors is not None
    losses = target.losses(Outcomes(agree[places], errors[places], None))
    assert losses is not None
    return losses


def _true(target: QualityTarget, candidate: Candidate, places: Places) -> float:
    """Return the agreement or the mean drift of some images."""
    loss = float(_losses(target, candidate, places).mean())
    return 1.0 - loss if target.quantity == "agreement" else loss


def _holds(target: QualityTarget, candidate: Candidate, places: Places) -> bool:
    true = _true(target, candidate, places)
    return true >= target.bound if target.quantity == "agreement" else true <= target.bound


def _row(model: str, candidates: Sequence[Candidate], target: QualityTarget, name: str, way: Way) -> SearchRow:
    agree = candidates[0].outcomes.agree
    assert agree is not None
    pool = np.arange(len(agree))
    found: list[tuple[Candidate, Places]] = []
    draws = DRAWS.draws(len(pool), f"{model} {target.title}")
    for drawn, truth in draws:
        chosen = way(target, candidates, drawn[:TUNING], drawn[TUNING:])
        if chosen is not None:
            found.append((chosen, truth))
    true = [_true(target, *each) for each in found]
    macs = sum(each.macs for each, _ in found) + DRAWS.trials - len(found)
    return SearchRow(
        model=model,
        way=name,
        pool=len(pool),
        quantity=target.quantity,
        target=target.bound,
        alpha=round(target.alpha, 6),
        tuning=TUNING,
        held_out=HELD_OUT,
        trials=DRAWS.trials,
        found=len(found),
        false=sum(not _holds(target, *each) for each in found),
        macs=round(macs / DRAWS.trials, 4),
        true=round(float(np.mean(true)), 4) if true else None,
        best=round(min([each.macs for each in candidates if _holds(target, each, pool)], default=1.0), 4),
        candidates=len(candidates),
    )
