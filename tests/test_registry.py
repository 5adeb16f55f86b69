import functools
import sys

import pytest

from asyncprefetch import CheckpointError, IteratorState, register
from tests.inside import _codec, find_kind, find_tag, kind_of, tag_of


class First(IteratorState, kind="tests.registry.first", version=3, aliases=("tests.registry.former",)):
    a: int = 0


@register("tests.registry.lines")
def lines():
    return ["a"]


# ------------------------------------------------------------------------------------------------------------- kinds


def test_a_kind_and_its_aliases_find_the_class():
    for name in ("tests.registry.first", "tests.registry.former"):
        assert find_kind(name).cls is First
    assert kind_of(First).name == "tests.registry.first"
    assert kind_of(First).version == 3
    assert find_kind("tests.registry.nobody") is None


def test_a_kind_is_not_inherited():
    class Second(First):
        pass

    assert kind_of(Second) is None
    assert find_kind("tests.registry.first").cls is First


@pytest.mark.parametrize(
    ("kind", "aliases"),
    [
        ("tests.registry.first", ()),
        ("tests.registry.former", ()),
        ("tests.registry.new", ("tests.registry.first",)),
        ("tests.registry.new", ["tests.registry.former"]),
    ],
)
def test_a_kind_or_alias_that_is_taken_is_a_type_error_that_names_both(kind, aliases):
    names = r"test_registry\.First has it, and .*test_registry\..*Usurper asks for it"
    with pytest.raises(TypeError, match=names):

        class Usurper(IteratorState, kind=kind, aliases=aliases):
            pass

    assert find_kind("tests.registry.first").cls is First
    assert find_kind("tests.registry.former").cls is First
    assert find_kind("tests.registry.new") is None


def define(body, kind, **options):
    class Defined(IteratorState, kind=kind, **options):
        __module__ = body["module"]
        __qualname__ = body.get("qualname", "Defined")

    return Defined


@pytest.mark.parametrize(
    ("before", "after"),
    [("__main__", "__mp_main__"), ("__mp_main__", "__main__"), ("__main__", "__main__"), ("some.module",) * 2],
)
def test_the_same_definition_again_replaces_the_older(before, after):
    kind = f"tests.registry.again-{before}-{after}".replace("some.", "")
    older = define({"module": before}, kind, aliases=(f"{kind}.former", f"{kind}.given-up"))
    newer = define({"module": after}, kind, aliases=(f"{kind}.former",))
    assert find_kind(kind).cls is find_kind(f"{kind}.former").cls is newer
    assert find_kind(f"{kind}.given-up") is None
    assert kind_of(older).name == kind  # instances of the older class can still be written


@pytest.mark.parametrize(
    "after", [{"module": "other"}, {"module": "__main__", "qualname": "Other"}, {"module": "main"}]
)
def test_another_module_or_qualified_name_replaces_nothing(after):
    kind = f"tests.registry.kept-{after['module'].strip('_')}-{after.get('qualname')}"
    older = define({"module": "__main__"}, kind)
    with pytest.raises(TypeError, match=f"__main__.Defined has it, and {after['module']}"):
        define(after, kind)
    assert find_kind(kind).cls is older


@pytest.mark.parametrize("kind", ["undotted", "", ".a", "a..b", "a.b c", "a.b\n", "ä.b", 3, b"a.b"])
def test_a_kind_that_is_no_dotted_name_is_a_type_error(kind):
    with pytest.raises(TypeError, match="kind must be a dotted name"):
        define({"module": "m"}, kind)


@pytest.mark.parametrize(
    "options",
    [
        {"version": 0},
        {"version": True},
        {"version": "1"},
        {"aliases": "a.b"},
        {"aliases": ("a b",)},
        {"aliases": {"a.b"}},
    ],
)
def test_a_bad_version_or_alias_is_a_type_error(options):
    with pytest.raises(TypeError, match=next(iter(options)).removesuffix("es")):
        define({"module": "m"}, "tests.registry.bad", **options)
    assert find_kind("tests.registry.bad") is None


# -------------------------------------------------------------------------------------------------------------- tags


def test_a_tag_finds_what_was_registered_and_back():
    assert find_tag("tests.registry.lines") is lines
    assert tag_of(lines) == "tests.registry.lines"
    assert find_tag("tests.registry.nobody") is None
    assert tag_of(test_a_tag_finds_what_was_registered_and_back) is None


def test_register_returns_what_it_is_given():
    assert lines() == ["a"]


def test_a_tag_that_is_taken_is_a_type_error_that_names_both():
    with pytest.raises(TypeError, match=r"test_registry\.lines has it, and .*usurper asks for it"):

        @register("tests.registry.lines")
        def usurper(): ...

    assert find_tag("tests.registry.lines") is lines


def test_the_same_function_again_replaces_the_older():
    def make():
        @register("tests.registry.local")
        def local(): ...

        return local

    older, newer = make(), make()
    assert find_tag("tests.registry.local") is newer
    assert tag_of(older) == tag_of(newer) == "tests.registry.local"


def test_an_object_has_one_tag():
    assert register("tests.registry.lines")(lines) is lines
    with pytest.raises(TypeError, match=r"registered already, as 'tests.registry.lines'"):
        register("tests.registry.other")(lines)
    assert find_tag("tests.registry.other") is None


@pytest.mark.parametrize("tag", ["", "a b", "a.", 3, None])
def test_a_tag_that_is_no_name_is_a_type_error(tag):
    with pytest.raises(TypeError, match="the tag must be a dotted name"):
        register(tag)


@pytest.mark.parametrize("thing", [3, [], functools.partial(print), "text"])
def test_only_functions_and_classes_can_be_registered(thing):
    with pytest.raises(TypeError, match="takes a function or a class"):
        register("tests.registry.thing")(thing)
    assert find_tag("tests.registry.thing") is None


def test_the_error_for_a_partial_says_that_its_function_is_to_be_registered():
    with pytest.raises(TypeError, match=r"not functools.partial.*; register the function of the partial, then bind"):
        register("tests.registry.thing")(functools.partial(print))


@pytest.mark.parametrize("thing", [{}, [], 3, object()])
def test_what_has_no_hash_or_was_never_registered_has_no_tag(thing):
    assert tag_of(thing) is None


# ------------------------------------------------------------------------------------------- a file names, no more


@pytest.fixture
def tempting_module(tmp_path, monkeypatch):
    """A module on ``sys.path`` that would define the kind and the tag that a file names, if it were imported."""
    (tmp_path / "tempting.py").write_text(
        "import asyncprefetch as ap\n"
        "class S(ap.IteratorState, kind='tempting.S'): pass\n"
        "@ap.register('tempting.function')\n"
        "def function(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "tempting"


def test_a_file_never_causes_an_import(tempting_module):
    before = set(sys.modules)
    for structure in [
        {"$": "state", "kind": f"{tempting_module}.S", "version": 1, "fields": {}},
        {"$": "registered", "tag": f"{tempting_module}.function"},
        {"$": "dataclass", "tag": f"{tempting_module}.S", "v": {}},
        {"$": "registered", "tag": "os.system"},
        {"$": "registered", "tag": "builtins.eval"},
    ]:
        with pytest.raises(CheckpointError, match=r"unknown (kind|tag)"):
            _codec.decode(structure, None)
    assert set(sys.modules) == before


def test_a_file_never_constructs_a_class_that_was_not_registered():
    made = []

    class Hidden(First):
        def __new__(cls, *args, **kwargs):
            made.append(cls)
            return super().__new__(cls)

    for name in ("tests.registry.hidden", "Hidden", Hidden.__qualname__, f"{Hidden.__module__}.{Hidden.__qualname__}"):
        for structure in [
            {"$": "state", "kind": name, "version": 1, "fields": {}},
            *({"$": node, "tag": name, "v": {}} for node in ("dataclass", "namedtuple")),
            {"$": "model", "tag": name, "v": {}, "extra": None, "private": None, "set": []},
        ]:
            with pytest.raises(CheckpointError, match=r"unknown (kind|tag)"):
                _codec.decode(structure, None)
    assert made == []


def test_a_registered_function_is_named_and_not_called():
    called = []

    @register("tests.registry.calling")
    def calling():
        called.append(1)

    assert _codec.decode(_codec.encode(calling, None), None) is calling
    assert called == []
