"""The README is short, its example runs and resumes, and its two commands do what it says."""

import re

from tests.pages import README, TRAINING, code_of, run

RESUMED = """
    first, steps = steps, 0
    asyncio.run(resume())
    assert first - 2 == steps > 0, (first, steps)
"""


def test_the_example_runs_and_resumes(tmp_path):
    [example] = code_of(README)
    done = run(tmp_path / "example.py", TRAINING + example + RESUMED)
    assert done.returncode == 0, done.stderr


def test_it_has_at_most_900_words():
    assert len(README.read_text("utf-8").split()) <= 900


def test_there_are_two_commands():
    commands = re.findall(r"^    (python3 -m venv .*)$", README.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert "examples/train_bytes.py --prove" in commands[0]
    assert commands[1].endswith("-m pytest")


def test_guarantees_are_six_lines_and_limits_are_five():
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README.read_text("utf-8"), re.DOTALL | re.MULTILINE))
    assert [len(re.findall(r"^- ", sections[name], re.MULTILINE)) for name in ("Guarantees", "Limits")] == [6, 5]
