"""Everything of the fast tier that is compiled: importing this compiles it, or reads what an earlier process kept.

That takes some ten seconds of processor time once for an installation, which are better spent before a learner takes
its first event than in its midst."""

import numpy.ma  # noqa: F401 - which numba would load at the first call with an array

from penstock.learn.fast import answering, growing, kernels, questions, stacking, tallies

__all__ = ["answering", "growing", "kernels", "questions", "stacking", "tallies"]
