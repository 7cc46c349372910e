"""Mean share: the share of its consumers' outputs that a channel carries on average, in second moments.

Channel c adds y_ip,c to the sum z_ip of output i at position p (`onnxpfp.score.output_moments`). PFP takes the largest
share of a sum that c ever has, over all i, p and inputs (`onnxpfp.score.pfp`); it is 1 as soon as one sum consists of
one channel. Here the mean takes the place of the maximum, in second moments, as a refit sees them:

    h_c = sum over i of E y_ip,c^2  /  sum over i of s_i^2      s_i^2 = E z_ip^2      E: over inputs and positions

It is the energy (`onnxpfp.score.energy`) with what the taps of one window have in common, and as a share of what comes
out. Where the channels D go, the error of z_ip is the sum of their y_ip,c. Relative to the sum of s_i^2, its mean
square is the sum over D of h_c where they are uncorrelated, and never more than |D| times as much.
"""

from __future__ import annotations

from onnxpfp.arrays import Floats
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = ["MeanShare"]


class MeanShare(Criterion):
    """The mean share of the consumers' outputs."""

    name, title = "mean-share", "mean share of the consumers' outputs in second moments, measured on the data"
    needs = frozenset({"shares"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Add up the mean shares of every consumer."""
        shares = [consumer.mean_share for consumer in group.consumers]
        return group.sum_over_consumers(each for each in shares if each is not None)
