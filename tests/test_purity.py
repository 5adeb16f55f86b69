"""Modules that hold decisions hold no I/O, imports run one way, and none hides in a function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asyncprefetch

PACKAGE = Path(asyncprefetch.__file__).parent
PURE = ["_codec", "_codec.registry", "_wire.messages", "_loop.states", "_loop.scheduler", "_wire.fingerprint"]
IMPURE = {"asyncio", "multiprocessing", "concurrent", "anyio", "socket", "threading", "selectors", "subprocess", "mmap"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """The modules that a module imports, with submodules named as such."""
    known = {name_of(module) for module in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_does_no_io_nor_do_those_it_imports(module):
    paths = {name_of(path): path for path in modules()}
    seen, ahead = set(), [f"asyncprefetch.{module}"]
    while ahead:
        name = ahead.pop()
        seen.add(name)
        path = paths[name]
        for imported in imports_of(path):
            assert imported.partition(".")[0] not in IMPURE, f"{name} imports {imported}"
            if imported.startswith("asyncprefetch.") and imported not in seen:
                ahead.append(imported)


def test_no_import_hides_in_a_function():
    for path in modules():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert inner == [], f"{path.name}: {function.name}"


def test_imports_run_one_way():
    graph = {name_of(path): {i for i in imports_of(path) if i.startswith("asyncprefetch")} for path in modules()}
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for imported in sorted(graph.get(name, ())):
                visit(imported, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_no_module_is_longer_than_one_concept():
    long = {path.name: n for path in modules() if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_every_public_name_is_seen_by_a_static_tool():
    source = ast.parse((PACKAGE / "__init__.py").read_text())
    (typed,) = [node for node in source.body if isinstance(node, ast.If)]
    assert ast.unparse(typed.test) == "TYPE_CHECKING"
    seen = {
        alias.asname or alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(asyncprefetch.__all__) == seen
    assert all(getattr(asyncprefetch, name) is not None for name in asyncprefetch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        asyncprefetch.missing  # noqa: B018
    assert (PACKAGE / "py.typed").exists()


def test_importing_the_library_imports_no_framework():
    code = (
        "import sys, asyncprefetch; print([m for m in ('torch', 'rich', 'matplotlib', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
