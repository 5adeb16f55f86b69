"""Iterators for text: documents from files, tokens, patches, sequences, and batches of a language model.

The stages of a pipeline, in order, are ``documents`` (with a reader for each format in ``_formats``), ``preprocess`` (with
``tokenizers``, ``file_tokenizers`` and ``patchers``), ``sequences``, and ``packing`` (with ``ngrams``). The public names are
exported by ``asyncprefetch.iterators``.
"""
