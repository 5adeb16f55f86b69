"""The pages in ``docs/`` and in the root: their code runs, their links work, and their drawings are up to date."""

import importlib
import re

import pytest

from tests.drawings.files import wanted_files
from tests.pages import BLOCK, DOCS, PAGES, ROOT, TRAINING, code_of, run

CODE = re.compile(r"^```.*?^```$|^(?: {4}|\t)[^\n]*$|`[^`\n]+`|<!--.*?-->", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

# Words and phrases that the pages avoid, and sentences that begin with a genitive.
BANNED = re.compile(r"(?i:\b(?:nobody|whoever|somebody|tells of|is told|there is none|behind)\b)|\bOf (?!course)")


def _id(path):
    return path.name


@pytest.mark.parametrize("page", [page for page in DOCS if code_of(page)], ids=_id)
def test_the_code_of_a_page_runs(tmp_path, page):
    done = run(tmp_path / "page.py", "\n".join([TRAINING, *code_of(page)]))
    assert done.returncode == 0, done.stderr


def test_code_that_does_not_run_is_rare_and_has_a_reason():
    reasons = [(page.name, block["reason"]) for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8"))]
    assert len([reason for _, reason in reasons if reason is not None]) <= 3, reasons
    fences = sum(page.read_text("utf-8").count("```python") for page in PAGES)
    assert fences == len(reasons), "a block of Python is not recognised: begin it with ```python alone on a line"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_between_pages_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue  # the tests do not fetch external links
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name} links to {link}"
        if page in DOCS:
            assert target.is_relative_to(ROOT / "docs"), f"{link} would be missing on the site"
        if anchor.startswith("asyncprefetch."):
            module, _, attribute = anchor.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), link
        elif anchor:
            assert anchor in anchors_of(target), f"{page.name} links to {link}"


def anchors_of(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_prose_is_plain(page):
    prose = CODE.sub("", page.read_text("utf-8"))
    found = [prose[max(0, match.start() - 20) : match.end() + 20] for match in BANNED.finditer(prose)]
    assert not found


def test_drawings_and_the_list_of_state_tables_are_up_to_date():
    wanted = wanted_files()
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    left = [path.name for path in (ROOT / "docs" / "drawings").iterdir() if path not in wanted]
    assert not stale + left, "run: python -m tests.drawings"


def test_every_drawing_is_shown_on_a_page():
    shown = {link for page in DOCS for link in LINK.findall(page.read_text("utf-8"))}
    assert {f"drawings/{path.name}" for path in (ROOT / "docs" / "drawings").iterdir()} <= shown


def test_modules_that_pages_and_drawings_name_exist():
    package = ROOT / "asyncprefetch"
    texts = [
        *(page.read_text("utf-8") for page in DOCS),
        *(d.read_text("utf-8") for d in (ROOT / "docs").rglob("*.svg")),
    ]
    for text in texts:
        for name in re.findall(r"[`>]((?:_\w+/)*\w+\.py|_\w+/)[`<]", text):
            assert (package / name).exists(), name
