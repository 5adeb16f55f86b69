"""The checkpoint codec: a nest of known and registered types <-> JSON structure and raw leaves.

The structure is plain JSON. What JSON can't say is an object with the key ``"$"``, a *node*: ``{"$": "tuple", "v": []}``.
The bytes of arrays, strings of bytes and long texts are *leaves*: they lie outside of the structure, in a list, and the
structure holds their index; or, where there is no list (the JSON of one iterator state), in the structure as base64.

Decoding constructs built-in types, numpy arrays, and classes that were registered (``_registry``), nothing else.
"""

from asyncprefetch._codec.arrays import raw_bytes
from asyncprefetch._codec.common import MAX_DEPTH, UnsupportedError, brief, told
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
    "told",
]
