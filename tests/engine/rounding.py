"""What float32 may lose in a convolution, by the analysis of rounding: no bound here was measured on any processor.

An operation's result is the exact one times 1 + d with |d| <= UNIT (Higham 2002, "Accuracy and Stability of Numerical
Algorithms", section 2.2). As in Higham & Mary 2019 ("A new approach to probabilistic rounding error analysis"), the d
are independent with mean zero, so that errors add up by their squares; evenly spread, their root mean square is no more
than ROUNDING. What is summed is normal with variance 1, as ``pictures.numbers``.

Sums are taken to be made one term after another, every product rounded before it is added. Blocks, wider vectors and
fused multiply-adds all lose less: a kernel need not be known to be held to this.
"""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from convatlas.engine import reference

UNIT = 2.0**-24
ROUNDING = UNIT / sqrt(3)


def of_a_sum(terms: int, roundings_before: int = 0) -> float:
    """Root mean square error of a sum of products, whose factors have been rounded so many times before.

    The sum of the first j has variance j, and is rounded; so is each product.
    """
    return ROUNDING * sqrt(terms * ((terms + 1) / 2 + 1 + roundings_before))


def of_winograd(channels: int) -> float:
    """Root mean square error of the outputs of a 3x3 convolution by F(4x4, 3x3)."""
    output, kernel, inputs = reference.matrices()
    return of_a_sum(channels, roundings(output, kernel, inputs)) * amplification(output, kernel, inputs)


def of_winograd_gradient(tiles: int) -> float:
    """Root mean square error of the gradient of a weight, which is summed over so many tiles."""
    output, kernel, inputs = reference.matrices()
    return of_a_sum(tiles, roundings(kernel.T, output.T, inputs)) * amplification(kernel.T, output.T, inputs)


def roundings(*transforms: Tensor) -> int:
    """How often a number is rounded on its way through them, in two directions each.

    A pass over n numbers rounds the coefficient, the product, and in adding up n times at most.
    """
    return sum(2 * (matrix.shape[1] + 2) for matrix in transforms)


def amplification(last: Tensor, one: Tensor, other: Tensor) -> float:
    """How large ``last ((one a one') * (other b other')) last'`` would be if nothing cancelled, for a, b of variance 1.

    Terms that cancel leave their errors behind: so variances are added. A row of a transform makes of values of
    variance 1 a value whose variance is the row's square norm.
    """
    variances = last.square() @ (one.square().sum(1) * other.square().sum(1))
    return float(variances.mean())  # one direction's, to the power 2 for two and 1/2 for the root


def share_lost(channels: int) -> float:
    """Root mean square error of a 3x3 convolution's outputs, as a share of their own root mean square."""
    return of_winograd(channels) / (3 * sqrt(channels))


#: The largest error of many as a share of the largest value, of layers of 136 channels, the most that single ones are
#: tested with: beyond six standard deviations lies one in 10^9, and the largest value is above the root mean square.
EXACT = 6 * share_lost(136)
