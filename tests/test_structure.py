"""The structure of the package and of its tests: the imports and names that each module may use.

All checks read the source without running it, except the last two.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

import asyncprefetch
from tests.conftest import pytest_asyncio_loop_factories, pytest_xdist_auto_num_workers

PACKAGE = Path(asyncprefetch.__file__).parent
TESTS = Path(__file__).parent
OWN = {PACKAGE.name, TESTS.name}
MAX_LINES = 400
MAX_STACKLEVEL = 3

# A module imports from its own layer and from the layers before it in this list. A name is a folder, or a module in the
# root.
LAYERS = [
    {"errors"},
    {"_codec"},
    {"arrays", "base", "batch", "statistics"},
    {"_wire"},
    {"_worker"},
    {"_process"},
    {"executors"},
    {"_loop"},
    {"_checkpoint"},
    {"prefetcher"},
    {"__main__", "testing"},
]
# Pipelines are user code. The library's iterators use only what users may use, and the worker's counters.
FOR_ITERATORS = {"errors", "_codec", "arrays", "base", "batch", "iterators", "_worker.counters"}

# These run in a worker, which has no event loop.
WITHOUT_LOOP = ("_worker", "iterators")
# These define decisions or formats. They and their imports do no I/O, and use no threads and no processes.
PURE = ["_codec", "_codec.registry", "_wire.messages", "_loop.states", "_loop.scheduler", "_wire.fingerprint"]
IMPURE = {"asyncio", "multiprocessing", "concurrent", "anyio", "socket", "threading", "selectors", "subprocess", "mmap"}

# Names with an underscore that the standard library documents as public: those of named tuples, and ``os._exit``.
DOCUMENTED = {"_asdict", "_exit", "_field_defaults", "_fields", "_make", "_replace"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path, package: Path = PACKAGE) -> str:
    """Return a module's name below its package. It is empty for the package itself."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TEST_FILES = sorted(TESTS.rglob("*.py"))
# The package itself imports nothing at run time: it loads a public name at its first use.
INNER = {name: path for name, path in MODULES.items() if name}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and not name.endswith("_") and name not in DOCUMENTED


def imported(tree: ast.AST) -> Iterator[tuple[str, str | None, str]]:
    """Yield each import: the module, the name imported from it or ``None``, and the name that the import binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                yield node.module or "", alias.name, alias.asname or alias.name


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Return the package's modules that a module imports, by their names below the package, and the other modules."""
    ours, others = set(), set()
    for module, name, _ in imported(parse(path)):
        if module.partition(".")[0] != PACKAGE.name:
            others.add(module)
            continue
        below = module.partition(".")[2]
        submodule = f"{below}.{name}".removeprefix(".")
        ours.add(submodule if submodule in MODULES else below)
    return ours, others


OURS = {name: imports_of(path)[0] for name, path in INNER.items()}
OTHERS = {name: imports_of(path)[1] for name, path in INNER.items()}


def area_of(module: str) -> str:
    return module.partition(".")[0]


def all_imports(module: str) -> set[str]:
    """Return the module and all modules of the package that it imports, directly or not."""
    seen, ahead = set(), [module]
    while ahead:
        if (name := ahead.pop()) not in seen:
            seen.add(name)
            ahead += OURS.get(name, ())
    return seen


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    done = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for neighbour in sorted(graph.get(name, ())):
                visit(neighbour, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


# ------------------------------------------------------------------------------------------------- the order of imports


def test_every_module_has_a_place_in_the_order():
    areas = {area_of(name) for name in INNER}
    assert areas == set().union(*LAYERS) | {"iterators"}


def test_no_underscored_module_lies_in_the_root():
    assert [path.name for path in PACKAGE.glob("*.py") if is_private(path.stem)] == []


def test_imports_follow_the_order_of_the_layers():
    layer = {area: number for number, areas in enumerate(LAYERS) for area in areas}
    upward = {
        (name, other)
        for name, others in OURS.items()
        for other in others
        if area_of(name) != "iterators"
        and (area_of(other) == "iterators" or layer[area_of(other)] > layer[area_of(name)])
    }
    assert upward == set()


def test_iterators_use_only_what_is_for_them():
    for name, others in OURS.items():
        if area_of(name) == "iterators":
            assert [other for other in others if not {other, area_of(other)} & FOR_ITERATORS] == [], name


def test_the_general_iterators_know_nothing_of_text():
    used = {
        (name, other)
        for name, others in OURS.items()
        for other in others
        if name.startswith("iterators.")
        and not name.startswith("iterators.text")
        and other.startswith("iterators.text")
    }
    assert used == set()


@pytest.mark.parametrize("area", WITHOUT_LOOP)
def test_what_runs_in_a_worker_imports_no_event_loop(area):
    for module in (name for name in INNER if area_of(name) == area):
        for name in all_imports(module):
            assert area_of(name) != "_loop", f"{module} imports {name}"
            frameworks = {other.partition(".")[0] for other in OTHERS.get(name, ())} & {"asyncio", "anyio"}
            assert not frameworks, f"{module} imports {frameworks} by {name}"


def test_there_is_no_circle_of_modules():
    assert_no_circle(OURS)


def test_there_is_no_circle_of_folders():
    graph: dict[str, set[str]] = {}
    for name, others in OURS.items():
        for other in others:
            if area_of(other) != area_of(name):
                graph.setdefault(area_of(name), set()).add(area_of(other))
    assert_no_circle(graph)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_does_no_io_nor_do_those_it_imports(module):
    for name in all_imports(module):
        impure = {other.partition(".")[0] for other in OTHERS.get(name, ())} & IMPURE
        assert not impure, f"{name} imports {impure}"


def test_no_import_hides_in_a_function():
    for path in MODULES.values():
        for function in ast.walk(parse(path)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert inner == [], f"{path.name}: {function.name}"


# --------------------------------------------------------------------------------------------------- sizes and names


def test_no_module_is_longer_than_one_concept():
    assert {path.name: n for path in MODULES.values() if (n := len(path.read_text().splitlines())) > MAX_LINES} == {}


def test_warnings_point_at_a_caller_that_is_near():
    """A large ``stacklevel`` counts the calls in between, so a change of one of them makes it wrong."""
    high = {
        (path.name, keyword.value.value)
        for path in MODULES.values()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "stacklevel"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value <= MAX_STACKLEVEL)
    }
    assert high == set()


def foreign_private_names(tree: ast.Module, our_names: set[str]) -> Iterator[str]:
    """Yield the private names of other packages that a module uses.

    An attribute belongs to another package if its root was imported from there, or if ``our_names`` does not contain it.
    """
    foreign = set()
    for module, name, bound in imported(tree):
        if module.partition(".")[0] not in OWN:
            foreign.add(bound)
            if any(map(is_private, module.split("."))) or (name is not None and is_private(name)):
                yield f"{module}.{name or ''}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            if node.attr not in our_names or (isinstance(root, ast.Name) and root.id in foreign):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "attr" in node.func.id:
            for value in node.args[1:2]:
                if isinstance(value, ast.Constant) and is_private(str(value.value)) and value.value not in our_names:
                    yield ast.unparse(node)


def defined_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines: functions, classes, variables, and attributes of ``self`` and ``cls``."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


def private_names_used(paths: Iterable[Path], definitions: Iterable[Path]) -> dict[str, list[str]]:
    """Return the private names of other packages by module. The files in ``definitions`` define our own names."""
    our_names = {name for path in definitions for name in defined_names(parse(path))}
    used = {str(path): sorted(set(foreign_private_names(parse(path), our_names))) for path in paths}
    return {path: names for path, names in used.items() if names}


def test_no_private_name_of_another_package_is_used():
    assert private_names_used(MODULES.values(), MODULES.values()) == {}


def test_tests_use_no_private_name_of_another_package():
    ours = [*MODULES.values(), *TEST_FILES, *(TESTS.parent / "examples").rglob("*.py")]
    assert private_names_used(TEST_FILES, ours) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import _thread",
        "from os import _wrap_close",
        "from multiprocessing._x import y",
        "import threading\nthreading._register_atexit(f)",
        "import multiprocessing.popen_fork as p\np.Popen(x)._launch(y)",
        "from concurrent.futures import ProcessPoolExecutor\ndef f(pool): return pool._processes",
        "def f(pool): setattr(pool, '_processes', {})",
    ],
)
def test_a_private_name_of_another_package_is_found(source):
    assert len(list(foreign_private_names(ast.parse(source), {"_own"}))) == 1


# ------------------------------------------------------------------------------------------------------------ the tests


# These also match in the text of a program that a test starts.
PRIVATE_IMPORT = re.compile(
    r"^\s*(?:from|import) asyncprefetch(?:\.\w+)*?\._(?!_)"
    r"|^\s*from asyncprefetch[\w.]* import (?:\([^)]*|.*)(?<!\w)_(?!_)",
    re.MULTILINE,
)
TEST_MODULE_IMPORT = re.compile(
    r"^\s*(?:from|import) tests(?:\.\w+)*\.test_\w+|^\s*from tests[\w.]* import (?:\([^)]*|.*)(?<!\w)test_",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from asyncprefetch._loop.core import Core", True),
        ("  import asyncprefetch.iterators._random", True),
        ("from asyncprefetch import Batch, _codec", True),
        ("from asyncprefetch import (\n    Batch,\n    _codec,\n)", True),
        ("from asyncprefetch.__main__ import main", False),
        ("from asyncprefetch.executors import ProcessExecutor", False),
    ],
)
def test_an_import_of_a_private_name_is_found(text, found):
    assert bool(PRIVATE_IMPORT.search(text)) == found


def test_only_one_module_of_the_tests_imports_private_names():
    found = {str(path.relative_to(TESTS)) for path in TEST_FILES if PRIVATE_IMPORT.search(path.read_text())}
    assert found == {"inside.py"}


def test_no_module_imports_a_test_module():
    """Shared helpers are in modules of their own, because importing a test module rewrites and runs all of it."""
    assert [path.name for path in TEST_FILES if TEST_MODULE_IMPORT.search(path.read_text())] == []


# A test gets its transport from one of these arguments.
TRANSPORT_ARGUMENTS = {"executor_factory", "pull", "transport", "workers"}


def is_marked(function: ast.AsyncFunctionDef) -> bool:
    return any("both_loops" in ast.unparse(decorator) for decorator in function.decorator_list)


def asynchronous_tests(path: Path) -> list[ast.AsyncFunctionDef]:
    tests = [
        node for node in parse(path).body if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    one_loop = "loop_factories"
    return [test for test in tests if not any(one_loop in ast.unparse(each) for each in test.decorator_list)]


@pytest.mark.parametrize(
    "path", [path for path in TEST_FILES if asynchronous_tests(path)], ids=lambda path: name_of(path, TESTS)
)
def test_each_kind_of_fault_and_each_transport_is_tried_on_uvloop(path):
    """Each module of tests is a kind. At least one of its tests, and one of those with a transport, run on both loops."""
    tests = asynchronous_tests(path)
    marked = [test for test in tests if is_marked(test)]
    assert marked, "mark a test with both_loops"

    def transports(some: list[ast.AsyncFunctionDef]) -> set[str]:
        return {argument.arg for test in some for argument in test.args.args} & TRANSPORT_ARGUMENTS

    assert transports(marked) == transports(tests), "mark a test that goes over the transports"


@pytest.mark.both_loops
async def test_a_marked_test_runs_on_both_loops(request):
    loop = asyncio.get_running_loop()
    assert request.node.callspec.id == ("uvloop" if isinstance(loop, uvloop.Loop) else "asyncio")


@pytest.mark.parametrize(
    ("marks", "every_loop", "loops"),
    [
        ([], False, ["asyncio"]),
        ([], True, ["asyncio", "uvloop"]),
        ([pytest.mark.both_loops], False, ["asyncio", "uvloop"]),
        ([pytest.mark.asyncio], False, ["asyncio"]),
        ([pytest.mark.asyncio(loop_factories=["uvloop"])], False, ["asyncio", "uvloop"]),
    ],
)
def test_a_test_is_offered_uvloop_if_it_has_the_mark_or_names_its_loops(marks, every_loop, loops):
    by_name = {mark.name: mark.mark for mark in marks}
    item = SimpleNamespace(get_closest_marker=by_name.get)
    config = SimpleNamespace(getoption={"every_loop": every_loop}.get)
    assert list(pytest_asyncio_loop_factories(config, item)) == loops


@pytest.mark.parametrize(
    ("arguments", "options", "shared"),
    [
        (["tests"], {}, True),
        (["tests/faults", "tests/test_batch.py"], {}, True),
        (["tests/test_batch.py"], {}, False),
        (["tests/test_batch.py::test_x"], {}, False),
        (["tests"], {"keyword": "batch"}, False),
        (["tests"], {"capture": "no"}, False),
        (["tests"], {"collectonly": True}, False),
    ],
)
def test_a_run_of_a_folder_is_shared_by_processes(monkeypatch, arguments, options, shared):
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    option = SimpleNamespace(**{"keyword": "", "capture": "fd", "collectonly": False, **options})
    invoked = SimpleNamespace(dir=TESTS.parent)
    config = SimpleNamespace(args=arguments, option=option, invocation_params=invoked)
    assert pytest_xdist_auto_num_workers(config) == (4 if shared else 0)


# ----------------------------------------------------------------------------------------------------- public names


def test_every_public_name_is_seen_by_a_static_tool():
    source = parse(PACKAGE / "__init__.py")
    (typed,) = [node for node in source.body if isinstance(node, ast.If)]
    assert ast.unparse(typed.test) == "TYPE_CHECKING"
    assert set(asyncprefetch.__all__) == {bound for _, _, bound in imported(typed)}
    assert all(getattr(asyncprefetch, name) is not None for name in asyncprefetch.__all__)
    code = "import asyncprefetch as a; print(a.errors.__name__, a.testing.__name__, {'errors', 'Batch'} <= set(dir(a)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "asyncprefetch.errors asyncprefetch.testing True\n"
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        asyncprefetch.missing  # noqa: B018
    assert (PACKAGE / "py.typed").exists()


def test_importing_the_library_imports_no_framework():
    code = (
        "import sys, asyncprefetch as a, asyncprefetch.iterators, asyncprefetch.testing; "
        "[getattr(a, name) for name in a.__all__]; "
        "print([m for m in ('torch', 'rich', 'matplotlib', 'pytest', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
