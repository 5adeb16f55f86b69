"""The pages of the documentation, and a way to run their code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
PAGES = [README, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")), *DOCS]

# The code of a page assumes that its reader defines these names.
TRAINING = """
steps = 0
def train_step(batch):
    global steps
    steps += 1
    assert batch.x.shape == (8, 256)
def time_to_checkpoint():
    return steps == 2
"""

BLOCK = re.compile(r"(?:^<!-- no-run: (?P<reason>.+) -->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block of Python. If a block does not run, a comment before it gives the reason."""


def code_of(page: Path) -> list[str]:
    """Return the blocks that run. The blocks of one page form one program."""
    return [block["code"] for block in BLOCK.finditer(page.read_text("utf-8")) if block["reason"] is None]


def run(script: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run the text as a script in a folder with a small corpus."""
    (script.parent / "corpus").mkdir()
    for name in ("readme.md", "again.md"):
        (script.parent / "corpus" / name).write_text(README.read_text("utf-8"))
    script.write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
