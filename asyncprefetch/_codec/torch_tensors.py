"""Makes torch tensors from the arrays that they were pickled as.

Only this module imports torch, and only the load of a frame that holds a tensor imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def rebuild(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """The tensor on the array's memory. ``dtype`` is its dtype's name: numpy may have only the bits."""
    tensor = torch.from_numpy(array)
    wanted = getattr(torch, dtype)
    return tensor if tensor.dtype == wanted else tensor.view(wanted)
