"""The command line: ``python -m asyncprefetch show FILE`` prints what a checkpoint holds.

It does not need the classes that the checkpoint names, and imports none of them.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from asyncprefetch._checkpoint import files
from asyncprefetch.errors import CheckpointError
from asyncprefetch.prefetcher import AsyncPrefetcherState


def describe(path: str) -> str:
    """A saved state in a few lines of text.

    Raises:
        CheckpointError: it can't be read, or is no whole checkpoint of this library.
    """
    document, leaves = files.unpack_file(path, version=AsyncPrefetcherState.VERSION)
    state: dict[str, Any] = document
    try:
        shards = state["shards"]
        buffered = [batch["shard_id"] for batch in state["buffer"]]
        lines = [
            f"asyncprefetch state, version {state['version']}: {sum(shard['delivered'] for shard in shards)} batches "
            f"delivered, {len(buffered)} buffered ({sum(map(len, leaves)):,} bytes of arrays), "
            f"{len(shards)} of {state['num_shards']} shards, "
            + (f"in order, shard {state['due']} is due" if state["in_order"] else "as they are ready"),
        ]
        for shard in shards:
            line = f"  shard {shard['shard_id']}: {shard['state']['kind']} version {shard['state']['version']}, "
            line += f"{shard['delivered']} delivered, {buffered.count(shard['shard_id'])} buffered"
            if shard["skip"]:
                line += f", {len(shard['skip'])} to skip"
            lines.append(line + (", at its end" if shard["ended"] else ""))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"malformed state: {type(error).__name__}: {error}") from error
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0, or 1 if the file can't be read."""
    parser = argparse.ArgumentParser(prog="python -m asyncprefetch", description="Look into checkpoints.")
    show = parser.add_subparsers(required=True, metavar="show").add_parser("show", help="print what a checkpoint holds")
    show.add_argument("file", help="a file that AsyncPrefetcherState.save() wrote")
    file = parser.parse_args(arguments).file
    try:
        print(describe(file))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
