"""The Winograd convolution in PyTorch's own operations, in any precision: what the kernels are checked against.

It is what the operator computes in float64, so that ``torch.autograd.gradcheck`` can check the formulas of its
gradients. It is slower than a direct convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEAR = 5 / 8
FAR = 3 / 2
TILE = 4
PATCH = 6


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """A' [4, 6], G [6, 3] and B' [6, 6] of F(4, 3), from the points where polynomials are evaluated, in float64.

    Source: Lavin & Gray 2015, section 4.1; Blahut 2010, "Fast Algorithms for Signal Processing", section 5.
    """
    points = torch.tensor([0, NEAR, -NEAR, FAR, -FAR], dtype=torch.float64)
    output = torch.zeros(TILE, PATCH, dtype=torch.float64)
    weight = torch.zeros(PATCH, 3, dtype=torch.float64)
    inputs = torch.zeros(PATCH, PATCH, dtype=torch.float64)
    output[:, :5] = points ** torch.arange(TILE)[:, None]
    output[-1, -1] = weight[-1, -1] = 1
    for index, point in enumerate(points):
        others = torch.cat([points[:index], points[index + 1 :]])
        weight[index] = point ** torch.arange(3) / (point - others).prod()
        inputs[index, :5] = _coefficients(others)
    inputs[-1] = _coefficients(points)
    return output, weight, inputs


def convolve(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """``conv2d(x, weight, padding=padding)`` of x [N, C, H, W] and weight [O, C, 3, 3]."""
    output, kernel, inputs = (matrix.to(x.dtype) for matrix in matrices())
    high, wide = x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2
    tiles = _patches(x, padding, high, wide)
    v = torch.einsum("ai,nchwij,bj->nchwab", inputs, tiles, inputs)
    u = torch.einsum("ai,ocij,bj->ocab", kernel, weight, kernel)
    m = torch.einsum("nchwab,ocab->nohwab", v, u)
    y = torch.einsum("ia,nohwab,jb->nohiwj", output, m, output)
    return y.flatten(4, 5).flatten(2, 3)[:, :, :high, :wide]


def weight_gradient(x: Tensor, gradient: Tensor, padding: int) -> Tensor:
    """The gradient [O, C, 3, 3] of the weight, from the inputs and the gradient of the outputs."""
    output, kernel, inputs = (matrix.to(x.dtype) for matrix in matrices())
    high, wide = gradient.shape[2:]
    tiles = _patches(x, padding, high, wide)
    v = torch.einsum("ai,nchwij,bj->nchwab", inputs, tiles, inputs)
    padded = functional.pad(gradient, (0, -wide % TILE, 0, -high % TILE))
    blocks = padded.unfold(2, TILE, TILE).unfold(3, TILE, TILE)
    d = torch.einsum("ia,nohwij,jb->nohwab", output, blocks, output)
    u = torch.einsum("nchwab,nohwab->ocab", v, d)
    return torch.einsum("ai,ocab,bj->ocij", kernel, u, kernel)


def _patches(x: Tensor, padding: int, high: int, wide: int) -> Tensor:
    """All 6x6 patches [N, C, tiles high, tiles wide, 6, 6], with zeros beyond the border."""
    below = -(-high // TILE) * TILE + 2 - x.shape[2] - padding
    right = -(-wide // TILE) * TILE + 2 - x.shape[3] - padding
    padded = functional.pad(x, (padding, right, padding, below))
    return padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE)


def _coefficients(roots: Tensor) -> Tensor:
    """Of the polynomial with these roots, the constant first."""
    coefficients = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        zero = torch.zeros(1, dtype=roots.dtype)
        coefficients = torch.cat([zero, coefficients]) - root * torch.cat([coefficients, zero])
    return coefficients
