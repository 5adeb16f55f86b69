import hashlib
import json
import os
import resource
import stat
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import CheckpointError
from tests import support
from tests.inside import container, pack, pack_parts, parse_json, unpack, unpack_file, write_file

DOCUMENT = {"version": 1, "text": 'é "sha256":"' + "0" * 64 + '"', "list": [1, None, True, 0.5]}
LEAVES = [b"abc", b"", bytes(range(256)), b"\0"]
PACKED = pack(DOCUMENT, LEAVES, version=1)
HEADER_SIZE = int.from_bytes(PACKED[:8], "little")

documents = st.dictionaries(st.text(max_size=8), support.json_values(), max_size=4)
leaf_lists = st.lists(st.binary(max_size=40), max_size=5)


def make_container(metadata, tensors=None, data=b"", *, checksum=True):
    """Return a container made by hand, with the right checksum."""
    if checksum:
        metadata = {"format": "asyncprefetch", "version": "1", "document": "{}", "sha256": "0" * 64} | metadata
        metadata = {key: value for key, value in metadata.items() if value is not None}
    return seal({"__metadata__": metadata} | (tensors or {}), data)


def seal(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    blank = struct.pack("<Q", len(text)) + text + data
    return blank.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(blank).hexdigest().encode(), 1)


def tensor(begin, end, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


# ------------------------------------------------------------------------------------------------------ there and back


@given(documents, leaf_lists, st.integers(1, 9))
def test_what_was_packed_is_unpacked(document, leaves, version):
    packed = pack(document, leaves, version=version)
    assert unpack(packed, version=version) == unpack(bytearray(packed), version=version) == (document, leaves)


def test_the_container_is_a_safetensors_file_that_others_can_read(tmp_path):
    (tmp_path / "file").write_bytes(PACKED)
    with safetensors.safe_open(tmp_path / "file", "np") as opened:
        assert json.loads(opened.metadata()["document"]) == DOCUMENT
        assert [opened.get_tensor(name).tobytes() for name in sorted(opened.keys())] == LEAVES
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {np.dtype("uint8")}  # noqa: SIM118


def test_leaves_keep_their_order_beyond_a_million_names(monkeypatch):
    monkeypatch.setattr(container, "_leaf_name", lambda index: f"leaf.{index}")  # sorts as badly as leaf.1000000
    leaves = [bytes([i]) * i for i in range(12)]
    assert unpack(pack({}, leaves, version=1), version=1) == ({}, leaves)


def test_the_document_is_ascii():
    assert PACKED[8 : 8 + HEADER_SIZE].isascii()


@pytest.mark.parametrize(
    "document",
    [
        {"a": '"sha256":"' + "0" * 64 + '"'},
        {'"sha256":"' + "0" * 64 + '"': "sha256"},
        {"sha256": "0" * 64},
        {"a": "sha256", "b": '\\"sha256":"' + "f" * 64},
        {"a": json.dumps({"__metadata__": {"sha256": "0" * 64}})},
    ],
    ids=repr,
)
def test_the_checksum_is_found_whatever_the_document_says(document):
    leaves = [b'"sha256":"' + b"0" * 64 + b'"']
    assert unpack(pack(document, leaves, version=1), version=1) == (document, leaves)


@pytest.mark.parametrize(
    "document", [{"a": float("nan")}, {"a": [float("-inf")]}, {"a": b""}, {"a": {1}}, {(1,): 2}], ids=repr
)
def test_a_document_that_is_no_json_is_refused(document):
    with pytest.raises(CheckpointError, match="is no JSON"):
        pack(document, [], version=1)


def test_a_document_that_nests_too_deeply_is_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="is no JSON"):
        pack({"a": deep}, [], version=1)
    while deep:  # free it level by level, so that nothing recurses
        deep = deep.pop()


def test_a_document_too_large_for_the_header_is_refused_when_it_is_packed(monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"takes 100,000,00\d bytes of JSON, and a safetensors file has room for 100,000,000"
    ):
        pack({"a": "x" * 100_000_000}, [], version=1)
    monkeypatch.setattr(container, "_MAX_HEADER", 10_000)
    with pytest.raises(CheckpointError, match="has room for 10,000"):
        pack({"a": '"' * 4_000}, [], version=1)  # it is too large only because each quote is escaped twice
    assert unpack(pack({"a": "x" * 4_000}, [], version=1), version=1)[0] == {"a": "x" * 4_000}


# -------------------------------------------------------------------------------------------------------------- damage


def test_every_flipped_bit_is_noticed():
    for position in range(len(PACKED)):
        for bit in range(8):
            data = bytearray(PACKED)
            data[position] ^= 1 << bit
            with pytest.raises(CheckpointError):
                unpack(bytes(data), version=1)


def test_every_truncation_is_an_error_that_says_so():
    with pytest.raises(CheckpointError, match="empty"):
        unpack(b"", version=1)
    for size in range(1, len(PACKED)):
        with pytest.raises(CheckpointError, match=r"^truncated"):
            unpack(PACKED[:size], version=1)


@given(st.binary(min_size=1, max_size=40))
def test_anything_after_the_end_is_noticed(more):
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(PACKED + more, version=1)


@given(st.data())
def test_bytes_that_were_changed_moved_or_left_out_are_noticed(data):
    start = data.draw(st.integers(0, len(PACKED)))
    end = data.draw(st.integers(start, len(PACKED)))
    changed = PACKED[:start] + data.draw(st.binary(max_size=20)) + PACKED[end:]
    if changed != PACKED:
        with pytest.raises(CheckpointError):
            unpack(changed, version=1)


def test_the_checksum_counts_in_lower_case_only():
    start = PACKED.index(b'"sha256":"', PACKED.index(b"__metadata__")) + 10
    changed = PACKED[:start] + PACKED[start : start + 64].upper() + PACKED[start + 64 :]
    assert changed != PACKED
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(changed, version=1)


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: struct.pack("<Q", len(b) + 2) + b"{" + b + b"}"))
def test_any_other_bytes_are_a_checkpoint_error(data):
    with pytest.raises(CheckpointError):
        unpack(data, version=1)


# --------------------------------------------------------------------------------------------------------- the reason

REFUSED = {
    "text": (b"this is a text, and no safetensors file at all", "not a safetensors file"),
    "a zip": (b"PK\x03\x04" + b"\0" * 100, "not a safetensors file"),
    "a pickle": (b"\x80\x05\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07", "not a safetensors file"),
    "a header of no size": (b"\0" * 100, "not a safetensors file"),
    "a header larger than allowed": (struct.pack("<Q", 100_000_001) + b"{", "not a safetensors file"),
    "a header larger than the file": (struct.pack("<Q", 99_999_999) + b"{", "truncated"),
    "a header that is no JSON": (seal(b'{"__metadata__":{},}'), "header is unreadable"),
    "a header that is no UTF-8": (seal(b'{"\xff":{}}'), "header is unreadable"),
    "a header with NaN": (seal(b'{"a":NaN}'), "header is unreadable.*NaN"),
    "a header with a key twice": (seal(b'{"a":1,"a":1}'), "header is unreadable.*twice"),
    "a header that nests too deeply": (
        seal(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "header is unreadable.*deep",
    ),
    "another's safetensors file": (
        safetensors.numpy.save({"w": np.zeros(3)}, {"format": "pt"}),
        "not a checkpoint of asyncpref",
    ),
    "a safetensors file without metadata": (
        safetensors.numpy.save({"w": np.zeros(3)}),
        "not a checkpoint of asyncprefetch",
    ),
    "metadata that is a list": (
        seal({"__metadata__": ["format", "asyncprefetch"]}),
        "not a checkpoint of asyncprefetch",
    ),
    "a format that is a deep nest": (
        seal(b'{"__metadata__":{"format":' + b"[" * 900 + b"]" * 900 + b"}}"),
        "not a checkpoint",
    ),
    "no checksum": (make_container({"sha256": None}), "there is no checksum"),
    "a short checksum": (make_container({"sha256": "0" * 63}), "there is no checksum"),
    "two checksums": (make_container({}, {"x": {"sha256": "0" * 64}}), "there is no checksum where one should be"),
    "a newer version": (
        make_container({"version": "2"}),
        "has version 2 of the format, and this asyncprefetch reads up to 1",
    ),
    "no version": (make_container({"version": None}), "no version"),
    "a version that is no number": (make_container({"version": "one"}), "no version"),
    "a version in other digits": (make_container({"version": "\u0661"}), "no version"),
    "a version of many digits": (make_container({"version": "1" * 5000}), "no version"),
    "a version that is no text": (make_container({"version": 1}), "no version"),
    "no document": (make_container({"document": None}), "not a JSON object"),
    "a document that is no text": (make_container({"document": {}}), "not a JSON object"),
    "a document that is a list": (make_container({"document": "[]"}), "not a JSON object"),
    "a document that is no JSON": (make_container({"document": "{"}), "malformed JSON"),
    "a document with NaN": (make_container({"document": '{"a":NaN}'}), "malformed JSON: NaN"),
    "a document with infinity": (make_container({"document": '{"a":-Infinity}'}), "malformed JSON: -Infinity"),
    "a document with a number that overflows": (make_container({"document": '{"a":1e999}'}), "malformed JSON: 1e999"),
    "a document with a key twice": (make_container({"document": '{"a":{"b":1,"b":2}}'}), "malformed JSON: .*key twice"),
    "a document that nests too deeply": (
        make_container({"document": '{"a":' + "[" * 10**5 + "]" * 10**5 + "}"}),
        "nested too deep",
    ),
    "a document with an endless number": (
        make_container({"document": '{"a":' + "1" * 10**6 + "}"}),
        "malformed JSON: .*digits",
    ),
    "a missing leaf": (make_container({}, {"leaf.000001": tensor(0, 1)}, b"a"), "no 'leaf.000000'"),
    "a surplus tensor": (
        make_container({}, {"leaf.000000": tensor(0, 1), "w": tensor(1, 2)}, b"ab"),
        "2 tensors, but no 'leaf.000001'",
    ),
    "a tensor of floats": (
        make_container({}, {"leaf.000000": tensor(0, 4, "F32", [1])}, b"abcd"),
        "not a row of bytes",
    ),
    "a tensor of int8": (make_container({}, {"leaf.000000": tensor(0, 4, "I8")}, b"abcd"), "not a row of bytes"),
    "a tensor of two dimensions": (
        make_container({}, {"leaf.000000": tensor(0, 4, shape=[2, 2])}, b"abcd"),
        "not a row of bytes",
    ),
    "a tensor of no shape": (make_container({}, {"leaf.000000": tensor(0, 1, shape=[])}, b"a"), "not a row of bytes"),
    "a tensor that is no object": (make_container({}, {"leaf.000000": 3}), "not a row of bytes"),
    "a tensor with more to it": (
        make_container({}, {"leaf.000000": tensor(0, 1) | {"x": 1}}, b"a"),
        "not a row of bytes",
    ),
    "a tensor at floats": (make_container({}, {"leaf.000000": tensor(0, 1.0)}, b"a"), "not a row of bytes"),
    "a tensor of another size": (
        make_container({}, {"leaf.000000": tensor(0, 1, shape=[2])}, b"ab"),
        "of 2 bytes from 0 to 1",
    ),
    "a tensor of negative size": (make_container({}, {"leaf.000000": tensor(0, -1)}), "do not fill"),
    "a tensor before the data": (
        make_container({}, {"leaf.000000": tensor(-1, 1)}, b"a"),
        "do not fill the data at byte 0",
    ),
    "a tensor beyond the data": (
        make_container({}, {"leaf.000000": tensor(0, 9)}, b"a"),
        "1 bytes of data, and tensors of 9",
    ),
    "a hole": (
        make_container({}, {"leaf.000000": tensor(0, 1), "leaf.000001": tensor(2, 3)}, b"abc"),
        "do not fill the data at byte 1",
    ),
    "an overlap": (
        make_container({}, {"leaf.000000": tensor(0, 2), "leaf.000001": tensor(1, 3)}, b"abc"),
        "do not fill",
    ),
    "a leaf shared by two": (
        make_container({}, {"leaf.000000": tensor(0, 2), "leaf.000001": tensor(0, 2)}, b"ab"),
        "do not fill",
    ),
    "bytes after the last tensor": (
        make_container({}, {"leaf.000000": tensor(0, 1)}, b"ab"),
        "2 bytes of data, and tensors of 1",
    ),
    "bytes and no tensor": (make_container({}, data=b"a"), "1 bytes of data, and tensors of 0"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_checkpoint_is_refused_with_the_reason(data, reason):
    with pytest.raises(CheckpointError, match=reason):
        unpack(data, version=1)


def test_the_container_made_by_hand_is_a_good_one():
    """If the container itself were invalid, the cases above could pass for another reason."""
    tensors = {"leaf.000001": tensor(0, 2), "leaf.000000": tensor(2, 3)}
    assert unpack(make_container({"document": '{"a":1}'}, tensors, b"abc"), version=1) == ({"a": 1}, [b"c", b"ab"])


def test_an_older_version_is_read():
    assert unpack(pack({"a": 1}, [], version=2), version=3) == ({"a": 1}, [])


def test_a_newer_version_is_reported_only_if_the_file_is_whole():
    """A flipped bit in the version is damage, and does not mean that a newer library wrote the file."""
    newer = pack({}, [], version=2)
    with pytest.raises(CheckpointError, match="version 2"):
        unpack(newer, version=1)
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(newer.replace(b'"version":"2"', b'"version":"3"'), version=1)


def test_a_refusal_takes_no_more_memory_than_the_data():
    hostile = [
        struct.pack("<Q", 99_999_999) + b"{",
        struct.pack("<Q", 2**63) + b"{}",
        make_container({}, {"leaf.000000": tensor(0, 2**50)}, b"a"),
        make_container({}, {f"leaf.{i:06}": tensor(0, 1000) for i in range(1000)}, b"a" * 1000),
    ]
    for data in hostile:
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            unpack(data, version=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


# ---------------------------------------------------------------------------------------------------------------- JSON


@given(support.json_values())
def test_json_is_read_from_text_and_from_bytes(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == parse_json(bytearray(text.encode())) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "NaN",
        "[Infinity]",
        '{"a":-Infinity}',
        "1e400",
        '{"a":1,"a":1}',
        '[{"a":1,"b":{},"b":{}}]',
        "1 2",
        "\ufeff1",
        "'a'",
        "01",
        '"\n"',
        "1" * 5000,
        "-" + "1" * 5000,
        "[" * 10**5,
        '{"a":' * 10**5,
        b"\xff",
        b'"\xed\xa0\x80"',
        "1".encode("utf-16"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_what_is_no_strict_json_is_refused(text):
    with pytest.raises(CheckpointError, match="malformed JSON"):
        parse_json(text)


@given(st.text(max_size=20) | st.binary(max_size=20))
def test_any_text_is_json_or_a_checkpoint_error(text):
    try:
        parse_json(text)
    except CheckpointError as error:
        assert str(error)  # noqa: PT017


# ---------------------------------------------------------------------------------------------------------------- files


def only(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_holds_what_was_written(tmp_path, kind):
    for data in (b"first", b"", b"second" * 1000):
        write_file(kind(tmp_path / "file"), data)
        assert only(tmp_path) == {"file": data}


@given(documents, leaf_lists)
def test_a_file_of_parts_is_unpacked_as_their_bytes_are(tmp_path, document, leaves):
    write_file(tmp_path / "file", *pack_parts(document, leaves, version=1))
    assert (tmp_path / "file").read_bytes() == pack(document, leaves, version=1)
    assert unpack_file(tmp_path / "file", version=1) == (document, leaves)


def test_a_file_is_its_owners_only_and_stands_in_the_current_directory_if_no_other_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("file", b"data")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_the_longest_name_can_be_written(tmp_path):
    write_file(tmp_path / ("n" * 255), b"data")
    assert list(only(tmp_path)) == ["n" * 255]


@pytest.mark.parametrize("failing", ["open", "fsync", "replace"])
@pytest.mark.parametrize(
    "raised", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"]
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing, raised):
    write_file(tmp_path / "file", b"old")

    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(os, failing, fail)
    expected = CheckpointError if isinstance(raised, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as failure:
        write_file(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert only(tmp_path) == {"file": b"old"}
    if expected is CheckpointError:
        assert str(tmp_path / "file") in str(failure.value)
        assert "No space left on device" in str(failure.value)


def test_a_disk_that_is_full_leaves_the_old_file_and_no_other(tmp_path):
    write_file(tmp_path / "file", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            write_file(tmp_path / "file", b"new" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert only(tmp_path) == {"file": b"old"}


def test_a_failure_leaves_no_descriptor_open(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    before = len(os.listdir("/proc/self/fd"))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(CheckpointError):
                write_file(tmp_path / "file", b"new")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_order_is_write_sync_rename_sync(tmp_path, monkeypatch):
    """The data is on the disk before the name is, and the name is on the disk before the call returns."""
    calls = []

    def watch(name, describe):
        original = getattr(os, name)

        def watched(*args, **kwargs):
            calls.append((name, describe(*args)))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)

    watch("fsync", lambda fd: "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else os.fstat(fd).st_size)
    watch("replace", lambda source, target: Path(target).name)
    write_file(tmp_path / "file", b"data")
    assert calls == [("fsync", 4), ("replace", "file"), ("fsync", "directory")]


def test_the_temporary_file_is_new_private_and_beside_the_target(tmp_path, monkeypatch):
    seen = []
    original = os.open

    def watched(path, flags, mode=0o777, **kwargs):
        seen.append((Path(path), flags, mode))
        return original(path, flags, mode, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    write_file(tmp_path / "file", b"data")
    path, flags, mode = seen[0]
    assert path.parent == tmp_path
    assert flags & os.O_EXCL
    assert flags & os.O_CREAT
    assert mode == 0o600


@pytest.mark.parametrize("number", [22, 95, 13])
def test_a_directory_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch, number):
    fail_for_directories(monkeypatch, OSError(number, os.strerror(number)))
    write_file(tmp_path / "file", b"data")
    assert only(tmp_path) == {"file": b"data"}


def test_a_disk_that_fails_at_the_last_sync_is_reported(tmp_path, monkeypatch):
    fail_for_directories(monkeypatch, OSError(5, "Input/output error"))
    with pytest.raises(CheckpointError, match=r"wrote .*file.*, but can't sync its directory: Input/output error"):
        write_file(tmp_path / "file", b"data")


def fail_for_directories(monkeypatch, error):
    original = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise error
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_write_that_cannot_be_says_where_and_why(tmp_path):
    (tmp_path / "directory").mkdir()
    for path, reason in [
        (tmp_path / "directory", "directory"),
        (tmp_path / "missing" / "file", "No such file or directory"),
        (tmp_path / "nul\0", "null"),
        ("", "name"),
    ]:
        with pytest.raises(CheckpointError, match=f"can't write .*{reason}"):
            write_file(path, b"data")
    assert only(tmp_path) == {}
    assert list((tmp_path / "directory").iterdir()) == []


def test_a_read_that_cannot_be_says_where_and_why(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path, "not a regular file|directory"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path / "nul\0", "null"),
        ("", "No such file"),
    ]:
        with pytest.raises(CheckpointError, match=f"can't read .*({reason})"):
            unpack_file(path, version=1)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything is permitted to root")
def test_a_file_that_may_not_be_touched_says_so(tmp_path):
    write_file(tmp_path / "file", b"old")
    (tmp_path / "file").chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        unpack_file(tmp_path / "file", version=1)
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        write_file(tmp_path / "file", b"new")
    tmp_path.chmod(0o700)


def test_a_permission_denied_says_so(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    write_file(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(CheckpointError, match=r"can't read '.*file': Permission denied"):
        unpack_file(tmp_path / "file", version=1)
    with pytest.raises(CheckpointError, match=r"can't write '.*file': Permission denied"):
        write_file(tmp_path / "file", b"new")


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "link", b"new")
    assert only(tmp_path) == {"target": b"old", "link": b"new"}
    assert not (tmp_path / "link").is_symlink()


def test_a_descriptor_is_no_path_and_stays_open():
    reader, writer = os.pipe()
    with pytest.raises(TypeError):
        unpack_file(reader, version=1)
    os.close(reader)
    os.close(writer)
