"""The building blocks of a pipeline. Each module holds one iterator, and each iterator draws from another one::

    documents = DocumentFileIterator("corpus/*.jsonl", shard=(0, 2))
    tokens = PreprocessIterator(LoopingIterator(documents, epochs=2), tokenizer=ByteTokenizer(), patcher=SpacePatcher())
    sequences = SequenceIterator(tokens, sequence_length=1024, buffer_size=16, seed=7)
    mixture = SamplingIterator({"code": sequences, "prose": other}, weights={"code": 3, "prose": 1}, seed=7)
    batches = PackingIterator(mixture, batch_size=8, sequence_length=1024, max_length=4096)

The items are first :class:`Document`, then arrays of tokens or :class:`TokenSequence`, then :class:`Batch`. Without a
patcher, all counts are counts of tokens.

An iterator only asks the object that it is given for its state, and draws from an iterator that it builds from that state.
So you can give one object to several iterators, and a pipeline yields the same in this process and in a worker. General
iterators are in this folder; those for text are in ``text``.
"""

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.batching import BatchIterator, BatchState
from asyncprefetch.iterators.filter import FilterIterator, FilterState
from asyncprefetch.iterators.from_iterable import FromIterable, FromIterableState, from_iterable
from asyncprefetch.iterators.limit import LimitIterator, LimitState
from asyncprefetch.iterators.looping import LoopingIterator, LoopingState
from asyncprefetch.iterators.map import MapIterator, MapState
from asyncprefetch.iterators.sampling import SamplingIterator, SamplingState
from asyncprefetch.iterators.shuffle import ShuffleIterator, ShuffleState
from asyncprefetch.iterators.text.documents import Document, DocumentFileIterator, DocumentFileState
from asyncprefetch.iterators.text.file_tokenizers import HuggingFaceTokenizer, TiktokenTokenizer, TokenizerFileError
from asyncprefetch.iterators.text.ngrams import ngram_ids
from asyncprefetch.iterators.text.packing import PackingIterator, PackingState, RowTooLongError
from asyncprefetch.iterators.text.patchers import BytePatcher, EntropyPatcher, Patcher, SpacePatcher, StaticPatcher
from asyncprefetch.iterators.text.preprocess import PreprocessIterator, PreprocessState
from asyncprefetch.iterators.text.sequences import SequenceIterator, SequenceState, TokenSequence
from asyncprefetch.iterators.text.tokenizers import ByteTokenizer, Tokenizer

__all__ = [
    "BatchIterator",
    "BatchState",
    "BytePatcher",
    "ByteTokenizer",
    "Document",
    "DocumentError",
    "DocumentFileIterator",
    "DocumentFileState",
    "EntropyPatcher",
    "FilterIterator",
    "FilterState",
    "FromIterable",
    "FromIterableState",
    "HuggingFaceTokenizer",
    "LimitIterator",
    "LimitState",
    "LoopingIterator",
    "LoopingState",
    "MapIterator",
    "MapState",
    "PackingIterator",
    "PackingState",
    "Patcher",
    "PreprocessIterator",
    "PreprocessState",
    "RowTooLongError",
    "SamplingIterator",
    "SamplingState",
    "SequenceIterator",
    "SequenceState",
    "ShuffleIterator",
    "ShuffleState",
    "SpacePatcher",
    "StaticPatcher",
    "TiktokenTokenizer",
    "TokenSequence",
    "Tokenizer",
    "TokenizerFileError",
    "from_iterable",
    "ngram_ids",
]
