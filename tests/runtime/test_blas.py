from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from nets import noise
from support.graphs import build
from threadpoolctl import threadpool_info, threadpool_limits

import onnxpfp
from onnxpfp.runtime.blas import one_blas_thread

CUT = """g (float[N,3,8,8] x) => (y) <float[8,3,3,3] w, float[8,8,3,3] v, float[8] b, float[5,8] u, float[5] c> {
    a = Conv(x, w)  r = Relu(a)  d = Conv(r, v, b)  s = Relu(d)  p = GlobalAveragePool(s)  f = Flatten(p)
    y = Gemm <transB = 1> (f, u, c) }"""


def counts() -> set[int]:
    """Numbers of threads of the BLAS libraries of this process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As a caller may have them."""
    with threadpool_limits(2, user_api="blas"):
        if counts() != {2}:
            pytest.skip("this BLAS has one thread in any case")
        yield


def test_a_run_has_one_thread_and_the_caller_gets_the_others_back() -> None:
    with one_blas_thread():
        assert counts() == {1}
    assert counts() == {2}


def test_it_is_given_back_after_a_failure() -> None:
    with pytest.raises(ValueError, match="why"), one_blas_thread():
        raise ValueError("why")
    assert counts() == {2}


def test_runs_within_runs_change_nothing() -> None:
    with one_blas_thread():
        with one_blas_thread():
            assert counts() == {1}
        assert counts() == {1}
    assert counts() == {2}


def test_a_run_that_goes_on_longer_than_the_first_leaves_the_callers_number() -> None:
    begun, end = threading.Event(), threading.Event()

    def other() -> None:
        with one_blas_thread():
            begun.set()
            end.wait(60)

    with one_blas_thread():
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(60)
        assert counts() == {1}
    assert counts() == {2}
    end.set()
    thread.join(60)
    assert counts() == {2}
    with one_blas_thread():
        assert counts() == {1}


def test_every_phase_of_a_pruning_has_one_thread() -> None:
    seen: dict[str, set[int]] = {}

    def progress(phase: str, done: int, total: int) -> None:
        seen.setdefault(phase, set()).update(counts())

    model, images = build(CUT), noise(64, 3, 8, 8)
    onnxpfp.prune(model, calibration=images, keep_macs=0.6, no_latency=True, progress=progress)
    assert {"calibration", "curves", "compensation", "verification"} <= seen.keys()
    assert set().union(*seen.values()) == {1}
    assert counts() == {2}
