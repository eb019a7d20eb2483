"""What operators cost, defined once.

MAC: one multiplication whose product is added to others, in a convolution, a matrix product or attention, as the papers
count them. FLOP: two for each MAC, as PyTorch's ``FlopCounterMode`` counts them. Neither counts what normalisation,
pooling, activations and additions do: it is a few percent in every network here.

>>> from convatlas.inspection.trace import trace_module
>>> trace = trace_module(torch.nn.Conv2d(3, 64, 3, padding=1), torch.zeros(1, 3, 224, 224))
>>> flops(trace.operators[0])    # 224 * 224 * 64 * 3 * 3 * 3 * 2
173408256
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from convatlas.inspection.receptive_field import is_understood
from convatlas.inspection.trace import Operator, Value


def flops(operator: Operator) -> int | None:
    """Floating-point operations of an operator's products; None where it is not known whether it has any.

    Source: ``torch.utils.flop_counter`` for the formulae.
    """
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(operator.overload.overloadpacket)
    if formula is None:
        return 0 if is_understood(operator) else None
    result = [value.shape for value in operator.outputs]
    counted = formula(
        *_shapes(operator.arguments),
        **_shapes(dict(operator.keywords)),
        out_val=result[0] if len(result) == 1 else result,
    )
    return int(counted)


def _shapes(tree: Any) -> Any:
    # the formulae take shapes for tensors; torch.Size is a leaf to them, a plain tuple is not
    return tree_map(lambda leaf: torch.Size(leaf.shape) if isinstance(leaf, Value) else leaf, tree)
