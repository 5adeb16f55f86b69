"""Every snippet of the README runs, and its two commands are what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

# What a snippet leaves to its reader.
TRAINING = """
steps = 0
def train_step(batch):
    global steps
    steps += 1
    assert batch.x.shape == (8, 256)
def time_to_checkpoint():
    return steps == 2
"""
RESUMED = """
    first, steps = steps, 0
    asyncio.run(resume())
    assert first - 2 == steps > 0, (first, steps)
"""


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(tmp_path, number):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "readme.md").write_text(README)
    (tmp_path / "corpus" / "again.md").write_text(README)
    snippet = SNIPPETS[number]
    if "train_step" in snippet:
        snippet = TRAINING + snippet + RESUMED
    script = tmp_path / "snippet.py"
    script.write_text(snippet)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_two_commands():
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "examples/train_bytes.py --prove" in commands[0]
    assert commands[1].endswith("-m pytest")
