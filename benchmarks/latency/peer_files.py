"""Write the file of a peer at one setting; runs in the environment of the peers, which need not have onnxpfp.

    python -m benchmarks.latency.peer_files MODEL IMAGES.npy OUT METHOD RATIO

Nothing is trained: what is compared is what a peer gives to those who have no training data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

__all__ = ["METHODS", "RATIOS"]

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""What each method is asked to remove of every layer (local), of all (global), or of what it can prune (onnxsim)."""
METHODS = (
    "onnxsim simplified",
    "onnxsim wanda",
    *(
        f"torch-pruning {kind} round_to={multiple}"
        for kind in ("l1 global", "l2 local", "bn_scale global")
        for multiple in (8, 16)
    ),
)


def main() -> None:
    """Prune and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    for name in ("model", "images", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("ratio", type=float)
    options = parser.parse_args()
    match options.method.split():
        case ["onnxsim", "simplified"]:
            from benchmarks.accuracy.peers.onnxsim_peer import write_simplified

            write_simplified(options.model, options.out)
        case ["onnxsim", method]:
            from benchmarks.accuracy.peers.onnxsim_peer import write_onnxsim

            write_onnxsim(options.model, np.load(options.images), method, options.ratio, options.out)
        case ["torch-pruning", method, ranking, rounding]:
            from benchmarks.accuracy.peers.torch_peer import write_torch
            from benchmarks.accuracy.peers.twin import Twin

            multiple = int(rounding.removeprefix("round_to="))
            write_torch(Twin(options.model), method, ranking, options.ratio, options.out, round_to=multiple)


if __name__ == "__main__":
    main()
