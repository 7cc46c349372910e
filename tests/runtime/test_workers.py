from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from onnxpfp.runtime.workers import ALONE, even_batch, workers

NUMBER: ContextVar[int] = ContextVar("number", default=0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_pieces(threads: int) -> None:
    with workers(threads) as helpers:
        assert helpers.count == threads
        assert list(helpers.in_order(lambda n: n * n, range(40))) == [n * n for n in range(40)]


def test_pieces_are_worked_on_at_the_same_time() -> None:
    meet = threading.Barrier(2, timeout=60)
    with workers(2) as helpers:
        assert sorted(helpers.in_order(lambda _: meet.wait(), range(2))) == [0, 1]


def test_one_thread_is_the_callers_own() -> None:
    with workers(1) as helpers:
        assert helpers is ALONE
        assert {*helpers.in_order(lambda _: threading.get_ident(), range(3))} == {threading.get_ident()}


@pytest.mark.parametrize(("most", "begun"), [(None, 4), (1, 1), (2, 2), (9, 4)])
def test_no_more_pieces_begin_than_may_wait(most: int | None, begun: int) -> None:
    asked: list[int] = []

    def pieces():
        for number in range(10):
            asked.append(number)
            yield number

    with workers(2) as helpers:
        for done, _ in enumerate(helpers.in_order(lambda n: n, pieces(), most), 1):
            assert len(asked) <= done - 1 + begun


def test_what_holds_for_the_caller_holds_in_the_threads() -> None:
    NUMBER.set(7)
    with workers(2) as helpers:
        assert set(helpers.in_order(lambda _: NUMBER.get(), range(4))) == {7}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_is_the_callers(threads: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    with workers(threads) as helpers, pytest.raises(ValueError, match="the third"):
        helpers.do(work, range(50))


def test_whoever_waits_works_meanwhile() -> None:
    begun, held = threading.Event(), threading.Event()
    with workers(2) as helpers:
        first = helpers.begin(lambda _: begun.set() or held.wait(60), None)
        assert begun.wait(60)
        # The other thread is held by the first one until the last is done, which only this one can do.
        others = [helpers.begin(lambda number: number, 1), helpers.begin(lambda _: held.set(), None)]
        assert helpers.result(first)
        assert [helpers.result(each) for each in others] == [1, None]


def test_a_piece_may_ask_for_help() -> None:
    with workers(2) as helpers:
        sums = helpers.in_order(lambda n: sum(helpers.in_order(lambda m: m, range(n))), range(8))
        assert list(sums) == [n * (n - 1) // 2 for n in range(8)]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_was_begun_fails_where_its_result_is_asked_for(threads: int) -> None:
    with workers(threads) as helpers:
        task = helpers.begin(lambda number: 1 // number, 0)
        with pytest.raises(ZeroDivisionError):
            helpers.result(task)


@pytest.mark.parametrize(
    ("samples", "most", "size"),
    [(8, 6, 4), (112, 20, 19), (48, 16, 12), (16, 16, 8), (896, 64, 64), (5, 4, 3), (1, 4, 1), (0, 4, 1)],
)
def test_batches_are_even_in_number_and_of_about_one_size(samples: int, most: int, size: int) -> None:
    assert even_batch(samples, most) == size
    assert samples < 2 or -(-samples // size) % 2 == 0


def test_pieces_without_results_are_begun_no_further_than_asked() -> None:
    begun, most = list[int](), list[int]()

    def pieces() -> Iterator[int]:
        for number in range(20):
            most.append(number - len(begun))
            yield number

    with workers(2) as helpers:
        helpers.do(begun.append, pieces(), 1)
    assert max(most) == 0
    assert begun == list(range(20))
