"""The examples, run as a user runs them; and the sceptic finds the faults of inexact runs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncprefetch import Batch

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["--steps", "30", "--checkpoint-every", "5", "--batch-size", "4", "--sequence-length", "16"]


def run_example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


train_bytes = partial(run_example, "train_bytes.py")
pipeline = partial(run_example, "pipeline.py")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("to be or not to be, that is the question\n" * 30, "utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": f"row {i}: äöü"}) + "\n" for i in range(40)), "utf-8")
    return folder


def test_a_killed_and_resumed_training_is_proved_to_be_exact(corpus: Path, tmp_path: Path) -> None:
    done = train_bytes(corpus, *SMALL, "--prove", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("exact: ")
    assert ", 0 differences, " in last
    assert (tmp_path / "out" / "prove" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert done.stderr == ""
    log = (tmp_path / "out" / "prove" / "killed-and-resumed" / "steps.jsonl").read_text("utf-8")
    assert len(log.splitlines()) >= 30


def test_training_goes_on_from_the_newest_whole_checkpoint(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train_bytes(corpus / "b.jsonl", *SMALL, "--out", out).returncode == 0
    (out / "step-00000035.partial").mkdir()  # a run that was killed during a save leaves this
    done = train_bytes(corpus / "b.jsonl", *SMALL, "--steps", "33", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (out / "steps.jsonl").read_text("utf-8").splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 34))
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["--resume"], "holds no checkpoint to resume from"),
        (["--steps", "0"], "must be at least 1"),
        (["--prove", "--steps", "9"], "--prove kills twice after the first checkpoint"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = train_bytes(*arguments, "--out", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------- the sceptic

FAKE = """
import argparse, json, signal, sys
from pathlib import Path
import numpy as np, safetensors.numpy
parser = argparse.ArgumentParser()
parser.add_argument("flaw")
parser.add_argument("--out", type=Path)
parser.add_argument("--announce", action="store_true")
parser.add_argument("--resume", action="store_true")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
log = options.out / "steps.jsonl"
done = len({json.loads(line)["step"] for line in log.read_text().splitlines()}) if options.resume else 0
lost = options.flaw == "a batch is lost" and options.resume
killed = options.out.name != "uninterrupted" and done < 8
with log.open("a", buffering=1) as file:
    for step in range(max(1, done), 13):  # repeats the last step
        if options.flaw == "a step is missing" and options.resume and step == 9:
            continue
        digest = str(step + lost)
        file.write(json.dumps({"step": step, "digest": digest, "loss": 1.0 / step}) + "\\n")
        print(step, 1.0 / step, 8, flush=True)
        if killed and step == (8 if done else 4):
            signal.pause()
weights = np.zeros(3, np.float32)
weights[0] = -0.0 if options.flaw == "a bit of the weights differs" and options.resume else 0.0
(options.out / "step-00000012").mkdir()
safetensors.numpy.save_file({"w": weights}, options.out / "step-00000012" / "model.safetensors")
"""


@pytest.fixture
def sceptic(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("sceptic")


@pytest.mark.skipif(os.name != "posix", reason="signal.pause")
@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("none", "exact: 14 batches compared (kills after steps 4 and 8; 2 steps trained twice)"),
        ("a batch is lost", "step 4: Step(step=4, digest='4', loss=0.25) became Step(step=4, digest='5', loss=0.25)"),
        ("a step is missing", "step 9 is missing"),
        ("a bit of the weights differs", "weights w differ"),
    ],
)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_sceptic_sees_every_difference(
    sceptic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], flaw: str, message: str
) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE, "utf-8")
    same = await sceptic.prove([sys.executable, str(fake), flaw], tmp_path / "out", steps=12, kills=[4, 8])
    assert same == (flaw == "none")
    assert message in capsys.readouterr().out


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_run_that_fails_on_its_own_proves_nothing(sceptic: Any, tmp_path: Path) -> None:
    with pytest.raises(sceptic.ProofError, match="exit code 3"):
        await sceptic.prove([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "out", steps=12, kills=[4, 8])


def test_random_kills_come_after_the_first_checkpoint_and_before_the_end(sceptic: Any) -> None:
    for _ in range(20):
        first, second = sceptic.random_kills(8, 5)
        assert (first, second) == (6, 7)


def test_the_gradients_of_the_model_are_those_of_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    byte_model = importlib.import_module("byte_model")
    random = np.random.default_rng(1)
    tokens = random.integers(1, 11, (3, 6))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], random.random((3, 5)) < 0.8)
    model = byte_model.ByteModel(11, context=3, embedding=4, hidden=6)
    for group in (model.weights, model.mean, model.square):
        group.update({name: array.astype(np.float64) for name, array in group.items()})
    _, gradients = model._loss_and_gradients(batch)
    for name, weight in model.weights.items():
        for index in random.integers(0, weight.size, 5):
            losses = []
            for change in (1e-6, -1e-6):
                weight.flat[index] += change
                losses.append(model._loss_and_gradients(batch)[0])
                weight.flat[index] -= change
            assert gradients[name].flat[index] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-5), name


def test_the_pipeline_prints_its_speed_and_what_each_source_contributed(corpus: Path) -> None:
    done = pipeline("--code", corpus / "a.txt", corpus / "a.txt", "--prose", corpus / "b.jsonl", "--batches", "20")
    assert done.returncode == 2, "one folder a source"
    shutil.copy(corpus / "a.txt", corpus / "c.txt")  # one document for each shard
    done = pipeline("--code", corpus / "*.txt", "--prose", corpus / "b.jsonl", "--batches", "100")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "MB/s" in done.stdout
    code = next(line for line in done.stdout.splitlines() if "code" in line)
    assert "75.0%" in code
    assert abs(float(code.rsplit("%", 2)[-2].split()[-1]) - 75) < 10
    assert "|" in done.stdout.splitlines()[-1]


def test_the_pipeline_makes_a_corpus_of_its_own() -> None:
    done = pipeline("--batches", "10")
    assert done.returncode == 0, done.stderr
    assert "prose" in done.stdout


def test_the_pipeline_says_what_is_wrong_with_a_corpus(tmp_path: Path) -> None:
    done = pipeline("--code", tmp_path / "nowhere", "--prose", tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("pipeline.py: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
