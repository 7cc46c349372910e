"""Fuzz a reader: `cd tests && python -m fuzz model --seconds 600`, and `data` and `plan`.

With atheris (`pip install atheris`) mutations are led by the lines they reach; without it they are drawn at random.
Every finding is written to `--findings` with its traceback; a crash of the process, or an input over which it hangs, is
left there as `last-TARGET`. All memory that it may take is `--memory` bytes.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import random
import resource
import sys
import time
import traceback
from pathlib import Path


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("target", choices=("model", "data", "plan"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--memory", type=int, default=2 << 30)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    given = parser.parse_args()
    given.findings.mkdir(exist_ok=True)
    resource.setrlimit(resource.RLIMIT_DATA, (given.memory, given.memory))
    led = importlib.util.find_spec("atheris") is not None and not given.plain
    if led:
        import atheris

        with atheris.instrument_imports(include=["onnxpfp"]):
            from fuzz.targets import TARGETS
    else:
        from fuzz.targets import TARGETS
    target = TARGETS[given.target]
    last = given.findings / f"last-{given.target}"
    counts = {"tried": 0, "accepted": 0, "findings": 0}
    known: set[str] = set()

    def report() -> None:
        used = time.process_time()
        print(
            f"{given.target}: {counts} in {used:.0f} s of processor time, {'atheris' if led else 'plain'}", flush=True
        )

    def once(data: bytes) -> None:
        last.write_bytes(data)
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            counts["accepted"] += target.try_on(data)
        except Exception:
            text = traceback.format_exc()
            # The places in our files tell one finding from another.
            place = hashlib.sha256(
                "".join(line for line in text.splitlines() if "onnxpfp" in line).encode()
            ).hexdigest()
            if place not in known:
                known.add(place)
                counts["findings"] += 1
                (given.findings / f"{given.target}-{place[:8]}").write_bytes(data)
                (given.findings / f"{given.target}-{place[:8]}.txt").write_text(text)
        finally:
            faulthandler.cancel_dump_traceback_later()
        counts["tried"] += 1
        if counts["tried"] % 5000 == 0:
            report()
        if time.process_time() > given.seconds:
            report()
            last.unlink()
            # libFuzzer would go on, and tell of an exception.
            import os

            os._exit(0)

    seeds = target.seeds()
    if not led:
        rng = random.Random(given.seed)
        while True:
            data = rng.choice(seeds)
            for _ in range(rng.choice((1, 1, 2, 3))):
                data = target.mutate(data, rng)
            once(data)
    corpus = given.findings / f"corpus-{given.target}"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        plain = rng.random() < 0.2
        return atheris.Mutate(data, max_size) if plain else target.mutate(data, rng)[:max_size]

    arguments = [
        sys.argv[0],
        str(corpus),
        f"-seed={given.seed + 1}",
        "-max_len=65536",
        "-rss_limit_mb=0",
        "-timeout=120",
    ]
    atheris.Setup(arguments, once, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
