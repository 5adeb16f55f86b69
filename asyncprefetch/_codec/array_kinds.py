"""Arrays that are more than a buffer of plain elements: masked and record arrays, and arrays of objects and of texts."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from asyncprefetch._codec.arrays import is_vast, read_shape
from asyncprefetch._codec.common import Decoding, Encoding, Node, brief, malformed, qualified_name, refuse
from asyncprefetch.errors import CheckpointError

Encode = Callable[[Encoding, Any, str, int], JsonValue]


def find_encoder(value: npt.NDArray[Any]) -> Encode | None:
    """Return the function that encodes this kind of array. ``None``: the array is of plain elements, or is unsupported."""
    cls, char = type(value), value.dtype.char
    if cls is np.recarray:
        return _encode_records
    masked = sys.modules.get("numpy.ma")  # where it is not imported, no array is masked
    if masked is not None and cls is masked.MaskedArray:
        return _encode_masked
    if cls is not np.ndarray and cls is not np.memmap:
        return None
    return {"O": _encode_objects, "T": _encode_strings}.get(char)


def memory_order(array: npt.NDArray[Any]) -> Literal["C", "F"]:
    """Return the order in which the elements are written. A Fortran array comes back as one."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def refuse_vast(array: npt.NDArray[Any], path: str) -> None:
    """Refuse an array that the decoder would refuse."""
    if is_vast(array.dtype, array.shape):
        refuse(path, f"a checkpoint can't hold an array of no bytes and of shape {array.shape}")


def _encode_records(encoder: Encoding, value: Any, path: str, depth: int) -> JsonValue:
    return {"$": "records", "v": encoder.encode(np.asarray(value), path, depth + 1)}


def _encode_masked(encoder: Encoding, value: Any, path: str, depth: int) -> JsonValue:
    mask = np.ma.getmask(value)
    fill: Any = np.array(value.fill_value)
    if fill.dtype != value.dtype:
        # numpy's default for texts does not fit into short ones, and can't be given.
        default = value.dtype.kind in "SU" and fill == np.ma.default_fill_value(value)
        fill = None if default else fill.astype(value.dtype)
    return {
        "$": "masked",
        "v": encoder.encode(np.ma.getdata(value, subok=False), path, depth + 1),
        "mask": None if mask is np.ma.nomask else encoder.encode(np.asarray(mask), path, depth + 1),
        "fill": encoder.encode(fill, f"{path}.fill_value", depth + 1),
        "hard": bool(value.hardmask),
    }


def _encode_objects(encoder: Encoding, value: npt.NDArray[Any], path: str, depth: int) -> JsonValue:
    _refuse_metadata(value, path)
    refuse_vast(value, path)
    order = memory_order(value)
    elements = value.ravel(order).tolist()
    return {
        "$": "objects",
        "shape": list(value.shape),
        "order": order,
        "v": [encoder.encode(v, f"{path}.ravel({order!r})[{i}]", depth + 1) for i, v in enumerate(elements)],
    }


def _encode_strings(encoder: Encoding, value: npt.NDArray[Any], path: str, depth: int) -> JsonValue:
    _refuse_metadata(value, path)
    refuse_vast(value, path)
    dtype: Any = value.dtype
    missing = [dtype.na_object] if hasattr(dtype, "na_object") else []
    if missing and not _stands_for_none(missing[0]):
        refuse(
            path, f"a checkpoint can't hold an array of StringDType with na_object={brief(missing[0])}; use None or nan"
        )
    order = memory_order(value)
    return {
        "$": "strings",
        "coerce": bool(dtype.coerce),
        "missing": [encoder.encode(v, path, depth + 1) for v in missing],
        "shape": list(value.shape),
        "order": order,
        "v": [encoder.encode(v, path, depth + 1) for v in value.ravel(order).tolist()],
    }


def _refuse_metadata(value: npt.NDArray[Any], path: str) -> None:
    if value.dtype.metadata is not None:
        refuse(path, f"a checkpoint can't hold dtype {value.dtype!r}: its metadata would be lost")


def _stands_for_none(value: Any) -> bool:
    return value is None or (type(value) is float and math.isnan(value))


def _decode_records(decoder: Decoding, node: Node, depth: int) -> Any:
    return _array(decoder, node, "v", depth).view(np.recarray)


def _decode_masked(decoder: Decoding, node: Node, depth: int) -> Any:
    data = _array(decoder, node, "v", depth)
    fill = None if node["fill"] is None else _array(decoder, node, "fill", depth)
    masked = importlib.import_module("numpy.ma")
    mask = masked.nomask
    if node["mask"] is not None:
        mask = _array(decoder, node, "mask", depth)
        if mask.shape != data.shape or mask.dtype != masked.make_mask_descr(data.dtype):
            raise malformed(f"a mask of dtype {mask.dtype!s:.60} and shape {mask.shape!r:.60}")
    if fill is not None and (fill.shape or fill.dtype != data.dtype):
        raise malformed(f"a fill value of dtype {fill.dtype!s:.60} and shape {fill.shape!r:.60}")
    if type(node["hard"]) is not bool:
        raise malformed(f"a mask of hardness {node['hard']!r:.60}")
    return masked.MaskedArray(data, mask=mask, fill_value=fill, hard_mask=node["hard"])


def _decode_objects(decoder: Decoding, node: Node, depth: int) -> npt.NDArray[Any]:
    elements, shape, order = _elements(decoder, node, depth)
    if is_vast(np.dtype(object), shape):
        raise malformed(f"an array of no bytes and of shape {shape!r:.60}")
    # Assigning one element at a time would take an array of no dimensions apart.
    flat = np.fromiter(elements, object, len(elements))
    return _fill(np.empty(shape, object, order), flat)


def _decode_strings(decoder: Decoding, node: Node, depth: int) -> npt.NDArray[Any]:
    make = getattr(np.dtypes, "StringDType", None)
    if make is None:
        raise CheckpointError("the checkpoint holds an array of StringDType: install numpy 2 or later")
    elements, shape, order = _elements(decoder, node, depth)
    missing = node["missing"]
    if not isinstance(missing, list) or len(missing) > 1 or type(node["coerce"]) is not bool:
        raise malformed(f"an array of texts with {missing!r:.60} in place of texts")
    given = dict(zip(["na_object"], (decoder.decode(v, depth + 1) for v in missing), strict=False))
    allowed = [_stands_for_none(v) for v in given.values()]
    if not all(allowed) or not all(type(v) is str or (allowed and _stands_for_none(v)) for v in elements):
        raise malformed("an array of texts with elements that are not texts")
    dtype = make(coerce=node["coerce"], **given)
    if is_vast(dtype, shape):
        raise malformed(f"an array of no bytes and of shape {shape!r:.60}")
    return _fill(np.empty(shape, dtype, order), np.array(elements, dtype))


def _elements(decoder: Decoding, node: Node, depth: int) -> tuple[list[Any], tuple[int, ...], Literal["C", "F"]]:
    elements, shape, order = node["v"], read_shape(node["shape"]), node["order"]
    if not isinstance(elements, list) or math.prod(shape) != len(elements) or order not in ("C", "F"):
        raise malformed(f"{node['$']} of shape {shape!r:.60} and order {order!r:.20}")
    return [decoder.decode(v, depth + 1) for v in elements], shape, "F" if order == "F" else "C"


def _fill(array: npt.NDArray[Any], elements: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fill an array in its memory order."""
    array[...] = elements.reshape(array.shape, order=memory_order(array))
    return array


def _array(decoder: Decoding, node: Node, key: str, depth: int) -> npt.NDArray[Any]:
    array = decoder.decode(node[key], depth + 1)
    if type(array) is not np.ndarray:
        raise malformed(f"{node['$']} of class {qualified_name(type(array))}")
    return array


DECODERS: dict[str, tuple[Callable[[Decoding, Node, int], Any], set[str]]] = {
    "records": (_decode_records, {"v"}),
    "masked": (_decode_masked, {"v", "mask", "fill", "hard"}),
    "objects": (_decode_objects, {"shape", "order", "v"}),
    "strings": (_decode_strings, {"coerce", "missing", "shape", "order", "v"}),
}
