"""The stateful building blocks of a pipeline, one a file. Each takes the one before it::

    documents = DocumentFileIterator("corpus", shard=(0, 2))
    tokens = PreprocessIterator(LoopingIterator(documents, epochs=2), tokenizer=ByteTokenizer())
    batches = PackingIterator(tokens, batch_size=8, sequence_length=1024)

An iterator asks the object it is given for its state and nothing else: it draws from an iterator that it builds from
that state itself. So one object can be given to several, and whether a pipeline runs here or in a worker changes
nothing.
"""

from asyncprefetch.iterators._listing import DocumentError
from asyncprefetch.iterators.documents import Document, DocumentFileIterator, DocumentFileState
from asyncprefetch.iterators.file_tokenizers import HuggingFaceTokenizer, TiktokenTokenizer, TokenizerFileError
from asyncprefetch.iterators.from_iterable import FromIterable, FromIterableState, from_iterable
from asyncprefetch.iterators.looping import LoopingIterator, LoopingState
from asyncprefetch.iterators.ngrams import ngram_ids
from asyncprefetch.iterators.packing import PackingIterator, PackingState, RowTooLongError
from asyncprefetch.iterators.patchers import BytePatcher, EntropyPatcher, Patcher, SpacePatcher, StaticPatcher
from asyncprefetch.iterators.preprocess import PreprocessIterator, PreprocessState
from asyncprefetch.iterators.sequences import SequenceIterator, SequenceState, TokenSequence
from asyncprefetch.iterators.tokenizers import ByteTokenizer, Tokenizer

__all__ = [
    "BytePatcher",
    "ByteTokenizer",
    "Document",
    "DocumentError",
    "DocumentFileIterator",
    "DocumentFileState",
    "EntropyPatcher",
    "FromIterable",
    "FromIterableState",
    "HuggingFaceTokenizer",
    "LoopingIterator",
    "LoopingState",
    "PackingIterator",
    "PackingState",
    "Patcher",
    "PreprocessIterator",
    "PreprocessState",
    "RowTooLongError",
    "SequenceIterator",
    "SequenceState",
    "SpacePatcher",
    "StaticPatcher",
    "TiktokenTokenizer",
    "TokenSequence",
    "Tokenizer",
    "TokenizerFileError",
    "from_iterable",
    "ngram_ids",
]
