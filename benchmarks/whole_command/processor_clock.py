"""Run onnxpfp so that the seconds by phase in its reports are those of the processor.

    python -P benchmarks/whole_command/processor_clock.py prune IN OUT ...

The clock of the phases asks the time for the seconds by the clock on the wall, on which other programs show. All
threads of the process that works count, and nothing that onnxpfp measures by itself is changed. A file of its own that
imports nothing of the benchmarks, so that it measures any checkout that PYTHONPATH names.
"""

from __future__ import annotations

import time
from types import ModuleType, SimpleNamespace

__all__ = ["count_on_processor"]


def count_on_processor(progress: ModuleType) -> None:
    """Let the clock of a module `onnxpfp.progress` count processor seconds.

    Raises:
        RuntimeError: Its clock is not read from `time.perf_counter`, so that the seconds would be others.
    """
    if getattr(progress, "time", None) is not time or "perf_counter" not in progress.Clock._go_on.__code__.co_names:
        raise RuntimeError("onnxpfp.progress.Clock no longer asks time.perf_counter; its phases cannot be measured so")
    progress.time = SimpleNamespace(perf_counter=time.process_time)


if __name__ == "__main__":
    import onnxpfp.progress
    from onnxpfp.cli.main import main

    count_on_processor(onnxpfp.progress)
    main(prog_name="onnxpfp")
