"""The benchmark: what a batch costs on its way to the consumer, side by side with the field.

    python -m tests.benchmarks [--quick] [--rows a,b] [--list] [--seconds S] [--repeats N] [--out DIR]

from the root of the repository. Data first: ``rows`` says what is measured and which goal it has; ``measure`` runs each
measurement in a fresh process (``child``), in turns; ``measurements`` holds what such a process does, on the batches
of ``workloads``, over the streams of ``peers``; ``report`` and ``chart`` show the figures.
"""
