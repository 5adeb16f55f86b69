"""Type checkers accept right code and reject wrong code: see the ignore comments in ``tests/typing``."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "typing").glob("*.py"))


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed: it is in the extra 'lint'")
def test_mypy_accepts_what_is_right_and_rejects_what_is_wrong() -> None:
    check(sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", *FILES)


@pytest.mark.timeout(300)
def test_pyright_accepts_what_is_right_and_rejects_what_is_wrong() -> None:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    pyright = shutil.which("pyright", path=beside)
    if pyright is None:
        pytest.skip("pyright is not installed: pip install pyright, or npm install -g pyright")
    # The package from pip downloads pyright with npm at its first use.
    if subprocess.run([pyright, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("pyright does not start: it needs node, and the network when it is first used")
    check(pyright, "--pythonpath", sys.executable, *FILES)
