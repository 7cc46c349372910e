"""Signals, limits of time and crashes end a command within a second, with one line and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import cli_models
import onnx
import pytest
from onnx import helper

import onnxpfp
from onnxpfp.cli.supervisor import supervised
from onnxpfp.errors import TimeLimitError

ROOT = str(Path(__file__).parents[2])
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SOON = 1.0 if not os.environ.get("ONNXPFP_BUSY") else 5.0
"""Seconds within which a command ends; a machine that does other work at the same time has ONNXPFP_BUSY set."""

BODIES = {
    "for ever": "co = Identity(c)  vo = Relu(v)",
    "in bodies": """co = Identity(c)
        vo = If (c) <then_branch = t () => (float[A,B,C,D] p) { p = Relu(v) },
                     else_branch = e () => (float[A,B,C,D] q) { q = Neg(v) }>""",
    "with a sum": "co = Identity(c)  s = Add(v, v)  z = Sub(s, v)  vo = Relu(z)",
    "with a product": "co = Identity(c)  s = Mul(v, v)  vo = Sqrt(s)",
    "with a shape": "co = Identity(c)  m = Shape(v)  vo = Reshape(v, m)",
    "by its condition": "k = Not(c)  co = Not(k)  vo = Abs(v)",
}


def looping(body: str) -> onnx.ModelProto:
    """Make a network that never comes to its end."""
    return cli_models.build(
        """g (float[N,3,8,8] x) => (float[N,4,M,K] y) {
            a = Conv(x, w1)
            t = Constant <value = bool {1}> ()
            n = Constant <value = int64 {9223372036854775807}> ()
            b = Loop (n, t, a) <body = body (int64 i, bool c, float[N,6,P,Q] v) => (bool co, float[N,6,P,Q] vo) {
                """
        + body
        + """ }>
            y = Conv(b, w2)
        }""",
        {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3)},
    )


def start(code: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *(["-c", textwrap.dedent(code)] if code else ["-m", "onnxpfp"]), *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    )


def heard() -> None:
    """Let signals be heard that whoever started the tests in the background had ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


WORKING = """
    import os, signal, sys, time
    from pathlib import Path
    from onnxpfp.cli.supervisor import supervised
    from onnxpfp.supervision import tell

    def work():
        {0}
        return 0

    sys.exit(supervised(work))
"""


def working(folder: Path, *lines: str, wait: bool = True) -> subprocess.Popen[str]:
    """Start a supervised process that does something; waits until it says that it has begun."""
    begun = "print('begun', flush=True)" if wait else "pass"
    process = start(WORKING.format("\n        ".join([*lines[:-1], begun, lines[-1]])), folder=folder)
    if wait:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    return process


def ended(process: subprocess.Popen[str], since: float) -> tuple[int, str, float]:
    error = process.communicate(timeout=60)[1]
    return process.returncode, error, time.monotonic() - since


IN_C = {
    "sleep": ("time.sleep(60)",),
    "numbers": ("x = 7 ** 100_000", "x ** 1000"),
    "products": ("import numpy", "a = numpy.ones((6000, 6000))", "a @ a @ a @ a"),
    "signals blocked": ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])", "time.sleep(60)"),
    "swallowed": (
        "import contextlib",
        "while True:\n            with contextlib.suppress(BaseException):\n                time.sleep(60)",
    ),
}


@pytest.mark.parametrize("what", list(IN_C))
def test_whatever_runs_is_interrupted(tmp_path: Path, what: str) -> None:
    make = "import onnxpfp.runtime.scratch as s; f = s.temporary_folder(Path('.')); (f / 'x').write_bytes(b'x')"
    process = working(tmp_path, make, "s.temporary_file(Path('.'))", *IN_C[what])
    assert len(list(tmp_path.iterdir())) == 2
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, since)[:2] == (130, "Error: interrupted\n")
    assert time.monotonic() - since < SOON
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up"), (signal.SIGINT, 130, "interrupted")],
)
def test_each_signal_has_its_code(tmp_path: Path, number: int, code: int, says: str) -> None:
    process = working(tmp_path, "time.sleep(60)")
    since = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)
    assert ended(process, since)[:2] == (code, f"Error: {says}\n")


def test_files_get_their_names_before_the_end(tmp_path: Path) -> None:
    lines = ("tell('saving')", "time.sleep(0.3)", "Path('done').touch()", "tell('saved')", "time.sleep(60)")
    process = start(WORKING.format("\n        ".join(("print('begun', flush=True)", *lines))), folder=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, since)[0] == 130
    assert (tmp_path / "done").exists()


def test_what_saves_for_ever_is_ended_too(tmp_path: Path) -> None:
    process = working(tmp_path, "tell('saving')", "time.sleep(60)")
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, since)[0] == 130
    assert time.monotonic() - since < SOON


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + textwrap.dedent(
        WORKING.format("print('begun', flush=True)\n        time.sleep(0.5)")
    )
    process = start(code, folder=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert ended(process, 0)[:2] == (0, "")


def test_the_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    process = working(tmp_path, "Path('pid').write_text(str(os.getpid()))", "time.sleep(60)")
    worker = int((tmp_path / "pid").read_text())
    assert worker != process.pid
    process.kill()
    # The pipe of its output is closed when both are gone.
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", 139, "onnxruntime or another library crashed (SIGSEGV)"),
        ("os.abort()", 134, "onnxruntime or another library crashed (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGFPE)", 136, "onnxruntime or another library crashed (SIGFPE)"),
        ("os.kill(os.getpid(), signal.SIGBUS)", 135, "onnxruntime or another library crashed (SIGBUS)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "killed from outside"),
    ],
)
def test_a_crash_is_told(tmp_path: Path, does: str, code: int, says: str) -> None:
    limits = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    make = "import onnxpfp.runtime.scratch as s; s.temporary_file(Path('.'))"
    process = working(tmp_path, limits, make, "tell('phase', 'calibration, 3 of 8')", does)
    found, error, _ = ended(process, 0)
    lines = error.splitlines()
    assert (found, len(lines)) == (code, 2)
    assert lines[0].startswith(f"Error: {says}: it was at calibration, 3 of 8")
    assert lines[0].endswith("; nothing was written")
    assert lines[1].startswith("Hint: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [0, 1, 2, 4])
def test_what_ends_by_itself_ends_as_it_does(tmp_path: Path, code: int) -> None:
    process = working(tmp_path, f"sys.exit({code})")
    assert ended(process, 0)[:2] == (code, "")


def test_in_other_programs_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert supervised(lambda: 3) == 3


def test_the_limit_ends_what_does_not_stop_by_itself(tmp_path: Path) -> None:
    process = working(tmp_path, "tell('phase', 'curves')", "tell('timeout', '0.1')", "time.sleep(60)")
    assert ended(process, 0)[:2] == (
        124,
        "Error: not done after 0.1 s: it was at curves\nHint: the model may have a loop that never ends\n",
    )


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    onnx.save(looping(BODIES["for ever"]), tmp_path / "work" / "in.onnx")
    (tmp_path / "work" / "out.onnx").write_bytes(b"before")
    return tmp_path / "work"


def test_a_command_whose_network_never_ends(endless: Path) -> None:
    process = start("", "prune", "in.onnx", "out.onnx", "--timeout", "1", "--plan", "p.json", folder=endless)
    assert ended(process, 0)[:2] == (
        124,
        "Error: in.onnx: not done after 1 s: it was at load\n"
        "Hint: a longer --timeout, or fewer samples; a model with a loop that never ends is never done\n",
    )
    assert sorted(path.name for path in endless.iterdir()) == ["in.onnx", "out.onnx"]
    assert (endless / "out.onnx").read_bytes() == b"before"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_is_interrupted_inside_onnxruntime(endless: Path, number: int, code: int) -> None:
    process = start("", "prune", "in.onnx", "out.onnx", "--timeout", "60", folder=endless)
    time.sleep(2)
    since = time.monotonic()
    process.send_signal(number)
    found, error, seconds = ended(process, since)
    assert (found, error.count("\n")) == (code, 1)
    assert seconds < SOON
    assert sorted(path.name for path in endless.iterdir()) == ["in.onnx", "out.onnx"]


@pytest.mark.parametrize("body", list(BODIES))
def test_the_limit_holds_in_programs(body: str) -> None:
    since = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"not done after 0\.3 s: it was at load") as failure:
        onnxpfp.prune(looping(BODIES[body]), timeout=0.3)
    assert time.monotonic() - since < 0.3 + SOON
    assert "a longer timeout" in failure.value.hint


@pytest.mark.parametrize("call", [onnxpfp.inspect, lambda m, **k: onnxpfp.prunability(m, calibration="random", **k)])
def test_the_limit_holds_in_every_verb(call: Callable[..., object]) -> None:
    with pytest.raises(TimeLimitError):
        call(looping(BODIES["for ever"]), timeout=0.3)


def test_the_limit_holds_for_constants_that_never_come() -> None:
    model = looping(BODIES["for ever"])
    inner = next(node for node in model.graph.node if node.op_type == "Loop")
    inner.input[2] = "w1"
    reduced = helper.make_node("ReduceMean", ["b"], ["r"], axes=[0], keepdims=0)
    model.graph.node.insert(len(model.graph.node) - 1, reduced)
    with pytest.raises(TimeLimitError):
        onnxpfp.prune(model, timeout=0.3)


def test_a_limit_that_is_kept_changes_nothing() -> None:
    plain = onnxpfp.prune(cli_models.chain(), keep_macs=0.5)
    limited = onnxpfp.prune(cli_models.chain(), keep_macs=0.5, timeout=100)
    assert plain.model == limited.model
    assert onnxpfp.prune(cli_models.chain(), keep_macs=0.5).model == plain.model


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e12"])
def test_limits_that_cannot_be_meant(refuse: Callable[..., object], seconds: str) -> None:
    found = refuse("in.onnx", "out.onnx", "--timeout", seconds, code=2)
    assert re.fullmatch(r"--timeout \S+ is no number of seconds", found.error)  # type: ignore[attr-defined]
