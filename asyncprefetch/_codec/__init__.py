"""The checkpoint codec: a nest of known and registered types <-> a JSON structure and raw leaves.

The structure is plain JSON. A value that JSON has no form for is an object with the key ``"$"``, a *node*:
``{"$": "tuple", "v": []}``. The bytes of arrays, byte strings and long texts are *leaves*. They are in a list outside of the
structure, which holds their index. Where there is no such list, as in the JSON of one iterator state, they are in the
structure as base64.

Decoding constructs built-in types, the standard library's value types (``values``), numpy arrays (``arrays``,
``array_kinds``), tensors (``tensor_nodes``), and classes that were registered (``registry``), and nothing else.

``positions``, ``fields``, ``field_types``, ``field_values``, ``class_errors`` and ``parametrised`` are what
``asyncprefetch.base`` is made of.
"""

from asyncprefetch._codec.arrays import raw_bytes
from asyncprefetch._codec.common import MAX_DEPTH, UnsupportedError, brief, validation_text
from asyncprefetch._codec.decoder import decode
from asyncprefetch._codec.encoder import encode, encode_state, explain_unsupported

__all__ = [
    "MAX_DEPTH",
    "UnsupportedError",
    "brief",
    "decode",
    "encode",
    "encode_state",
    "explain_unsupported",
    "raw_bytes",
    "validation_text",
]
