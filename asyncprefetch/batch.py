"""The batch of a training step of a language model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncprefetch import _codec
from asyncprefetch._codec.registry import register
from asyncprefetch.errors import CheckpointError


@register("asyncprefetch.Batch")
@dataclass(slots=True, eq=False)
class Batch:
    """The arrays of one training step. They may have any dtype; those given here are from the library's own iterators.

    Attributes:
        x: inputs, int64 of shape ``(batch_size, sequence_length)``.
        y: targets, with the shape of ``x``: in language modelling ``y[:, i]`` is the token after ``x[:, i]``.
        mask: bool with the shape of ``y``, true where a target is real; ``None``: all targets are real.
        patch_lengths: int64 of shape ``(batch_size, patches)``, or ``None``.
        ngram_ids: int64 of shape ``(sizes, batch_size, sequence_length)``, or ``None``.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    mask: npt.NDArray[Any] | None = None
    patch_lengths: npt.NDArray[Any] | None = None
    ngram_ids: npt.NDArray[Any] | None = None

    def to_python_dict(self) -> dict[str, Any]:
        """Return the batch as data that JSON can hold: each array with its dtype, its shape, and its bytes as base64.

        Raises:
            CheckpointError: an array has a dtype that can't be described exactly, such as objects.
        """
        return {f.name: _codec.encode(getattr(self, f.name), None, name=f.name) for f in fields(self)}

    @classmethod
    def from_python_dict(cls, data: dict[str, Any]) -> Batch:
        """Return the batch that :meth:`to_python_dict` described, with new arrays.

        Raises:
            CheckpointError: the data is malformed, lacks ``x`` or ``y``, or has an unknown field.
        """
        if not isinstance(data, dict):
            raise CheckpointError(f"a Batch is described by a dict, not by a {type(data).__qualname__}")
        unknown = data.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise CheckpointError(f"a Batch has no {', '.join(sorted(map(repr, unknown)))}")
        arrays = {name: _codec.decode(structure, None) for name, structure in data.items()}
        for name in ("x", "y"):
            if not isinstance(arrays.get(name), np.ndarray):
                raise CheckpointError(f"a Batch needs an array {name!r}, not {_codec.brief(arrays.get(name))}")
        for name, value in arrays.items():
            if value is not None and not isinstance(value, np.ndarray):
                raise CheckpointError(f"{name!r} of a Batch must be an array or None, not {_codec.brief(value)}")
        return cls(**arrays)
