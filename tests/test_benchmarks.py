"""The benchmark runs and names the missing peers. The suite does not check its figures."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_benchmark_writes_its_table_its_samples_and_its_chart(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--rows", "overlap,file", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "asyncprefetch" in done.stdout
    assert {"benchmark.md", "benchmark.json", "benchmark.png"} <= {path.name for path in tmp_path.iterdir()}
