"""Make promises from many draws of held-out images, and count those that are false."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.promises.files import PrunedFile
from benchmarks.promises.promised import PROMISES, Checked, Promise
from benchmarks.promises.rows import PromiseRow
from benchmarks.promises.schemes import Scheme

__all__ = ["ALPHAS", "SCHEMES", "promise_rows"]

ALPHAS = (0.05, 0.2)
TRIALS = 200
HALF = 2500
SCHEMES = tuple(Scheme(n, from_pool, TRIALS) for from_pool in (False, True) for n in (HALF, 512, 128))


def promise_rows(model: str, percent: int, pool: PrunedFile) -> Iterator[PromiseRow]:
    """Yield the rows of one file; all promises share the draws."""
    for scheme in SCHEMES:
        draws = list(scheme.draws(len(pool.agree), f"{model} {percent}"))
        parts = [(pool.of(held_out), pool.of(truth)) for held_out, truth in draws]
        for alpha in ALPHAS:
            for promise in PROMISES:
                checked = [promise.check(held_out, truth, alpha) for held_out, truth in parts]
                made = [each for each in checked if each is not None]
                # Whether there are enough images does not depend on the draw.
                if made:
                    yield _row(model, percent, pool, scheme, alpha, promise, made)


def _row(
    model: str,
    percent: int,
    pool: PrunedFile,
    scheme: Scheme,
    alpha: float,
    promise: Promise,
    made: Sequence[Checked],
) -> PromiseRow:
    return PromiseRow(
        model=model,
        percent=percent,
        pool=len(pool.agree),
        agreement=round(float(pool.agree.mean()), 4),
        layers=len(pool.layers),
        from_pool=scheme.from_pool,
        held_out=scheme.held_out,
        alpha=alpha,
        promise=promise.name,
        share=made[0].share,
        trials=len(made),
        failures=sum(each.fails for each in made),
        expected=round(promise.expected(pool, scheme, alpha), 4),
        at_most=promise.expected_at_most,
        promised=round(float(np.median([each.promised for each in made])), 5),
        true=round(float(np.median([each.true for each in made])), 5),
    )
