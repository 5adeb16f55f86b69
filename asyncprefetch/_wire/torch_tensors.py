"""Makes torch tensors of the arrays that they crossed as. The one module that imports torch: nothing else imports it
but a frame that holds a tensor."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def rebuild(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """The tensor on the array's memory; ``dtype`` is its name, which differs where numpy has only the bits."""
    tensor = torch.from_numpy(array)
    wanted = getattr(torch, dtype)
    return tensor if tensor.dtype == wanted else tensor.view(wanted)
