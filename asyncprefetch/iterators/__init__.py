"""The stateful building blocks of a pipeline, one a file. Each takes the one before it::

    documents = DocumentFileIterator("corpus", shard=(0, 2))
    tokens = PreprocessIterator(LoopingIterator(documents, epochs=2), tokenizer=ByteTokenizer())
    batches = PackingIterator(tokens, batch_size=8, sequence_length=1024)

An iterator asks the object it is given for its state and nothing else: it draws from an iterator that it builds from
that state itself. So one object can be given to several, and whether a pipeline runs here or in a worker changes
nothing.
"""

from asyncprefetch.iterators._files import DocumentError
from asyncprefetch.iterators.documents import Document, DocumentFileIterator, DocumentFileState
from asyncprefetch.iterators.from_iterable import FromIterable, FromIterableState, from_iterable
from asyncprefetch.iterators.looping import LoopingIterator, LoopingState
from asyncprefetch.iterators.packing import PackingIterator, PackingState
from asyncprefetch.iterators.tokens import ByteTokenizer, PreprocessIterator, PreprocessState, Tokenizer

__all__ = [
    "ByteTokenizer",
    "Document",
    "DocumentError",
    "DocumentFileIterator",
    "DocumentFileState",
    "FromIterable",
    "FromIterableState",
    "LoopingIterator",
    "LoopingState",
    "PackingIterator",
    "PackingState",
    "PreprocessIterator",
    "PreprocessState",
    "Tokenizer",
    "from_iterable",
]
