"""A measuring process: ``python -m tests.benchmarks.child '{"run": "module.function", "parameters": {...}}'``.

Its last line of output is JSON, with the figures or with what went wrong. Imports little at its top, for workers that
are started afresh import this module once more.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys


def main() -> None:
    spec = json.loads(sys.argv[1])
    # What libraries print goes to stderr; the answer has this channel for itself.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, function = spec["run"].split(".")
    try:
        run = getattr(importlib.import_module(f"tests.benchmarks.measurements.{module}"), function)
        answer = {"figures": asyncio.run(run(**spec["parameters"]))}
    except Exception as error:  # whatever a contender raises is what the table has to say of it
        answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(": ")}
    print(json.dumps(answer), file=channel, flush=True)


if __name__ == "__main__":
    main()
