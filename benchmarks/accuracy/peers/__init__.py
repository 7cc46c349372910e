"""Other structural pruners, installed beside onnxpfp and run on the same networks.

They are no part of onnxpfp's installation. Both run in one environment with it, on the CPU:

    pip install onnxsim==0.8.1
    pip install torch==2.13.0 && pip install --no-deps torch-pruning==1.6.1

(`--no-deps` keeps pip from replacing torch where it is a CPU build of its own index or wheel.)
Every peer is used as its documentation says, prunes once and without training, and never sees a test image. Its
pruning ratio is bisected until the multiply-adds of the file that it writes meet the target, since none of them takes
a target of multiply-adds itself.
"""

from benchmarks.accuracy.peers.registry import PEERS, Needs, Peer
from benchmarks.accuracy.peers.search import UnreachableShareError
from benchmarks.accuracy.peers.task import CountMacs, Task

__all__ = ["PEERS", "CountMacs", "Needs", "Peer", "Task", "UnreachableShareError"]
