"""Train a small byte-level language model on real text, with exact checkpoints.

    python examples/train_bytes.py                      # on the sources of Python's standard library
    python examples/train_bytes.py my_folder more.jsonl # or on any text
    python examples/train_bytes.py --resume             # continue from the newest checkpoint
    python examples/train_bytes.py --prove              # kill it, resume it, compare everything

Two workers read, tokenize and pack the text while the model learns. Each takes half of the documents.
"""

from __future__ import annotations

import os

# One thread adds in one order, so the weights are the same bit for bit. numpy reads this when it is imported.
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1", VECLIB_MAXIMUM_THREADS="1")

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import sysconfig
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy
from byte_model import ByteModel
from progress import Announcer, ProgressLine, Report
from safetensors import SafetensorError
from sceptic import ProofError, Step, StepLog, prove, random_kills

from asyncprefetch import AsyncPrefetcher, AsyncPrefetchError, AsyncPrefetcherState, Batch
from asyncprefetch.iterators import (
    ByteTokenizer,
    DocumentError,
    DocumentFileIterator,
    LoopingIterator,
    PackingIterator,
    PreprocessIterator,
)

SHARDS = WORKERS = 2
PREFETCH = 8
KEEP_CHECKPOINTS = 3
TOKENIZER = ByteTokenizer()


class UserError(Exception):
    """The command can't be carried out. The message says why, and what to do."""


@dataclass(frozen=True)
class Job:
    """The options of the command line."""

    corpus: list[str]
    out: Path
    steps: int
    checkpoint_every: int
    batch_size: int
    sequence_length: int
    resume: bool
    announce: bool


def pipelines(job: Job) -> list[PackingIterator]:
    """One pipeline for each shard: half of the documents, repeated -> bytes -> batches of one shape."""
    shards = []
    for index in range(SHARDS):
        documents = DocumentFileIterator(
            job.corpus or [sysconfig.get_path("stdlib")],
            shard=(index, SHARDS),
            exclude=() if job.corpus else ("site-packages", "dist-packages"),
            encoding_errors="replace",  # the standard library's tests hold files in odd encodings
        )
        if next(documents.get_state().build().create_iter(), None) is None:
            raise UserError(f"the corpus has fewer than {SHARDS} documents: there must be one for each shard")
        tokens = PreprocessIterator(LoopingIterator(documents), tokenizer=TOKENIZER)
        shards.append(PackingIterator(tokens, batch_size=job.batch_size, sequence_length=job.sequence_length))
    return shards


async def train(job: Job) -> None:
    """Train to ``job.steps`` steps, from the beginning or from the newest checkpoint."""
    model = ByteModel(TOKENIZER.vocabulary_size)
    shards = pipelines(job)
    if job.resume:
        loader = await load_checkpoint(job.out, model, shards)
    else:
        if checkpoints(job.out):
            raise UserError(f"{job.out} holds checkpoints: continue with --resume, or name another folder with --out")
        loader = AsyncPrefetcher(shards, n_batches_to_prefetch=PREFETCH, num_workers=WORKERS)
    job.out.mkdir(parents=True, exist_ok=True)
    await AsyncPrefetcherState.check_writable(job.out / "loader.safetensors")  # fail now, not at the first save
    if model.steps >= job.steps:
        raise UserError(f"{job.out} has {model.steps} steps already: ask for more with --steps")

    report: Report = Announcer() if job.announce else ProgressLine("training", job.steps)
    with closing(StepLog(job.out / "steps.jsonl", new=not job.resume)) as log, report:
        async with loader:
            async for batch in loader:
                # In a thread: the loop receives batches meanwhile.
                loss = await asyncio.to_thread(model.train_step, batch)
                log.write(Step(model.steps, digest(batch), loss))
                await report.step(model.steps, loss, loader.statistics().buffered)
                if model.steps % job.checkpoint_every == 0 or model.steps == job.steps:
                    await save_checkpoint(job.out, model, loader)
                if model.steps == job.steps:
                    break


def digest(batch: Batch) -> str:
    """A digest of every bit of a batch, with the dtypes and shapes of its arrays."""
    return hashlib.blake2b(json.dumps(batch.to_python_dict()).encode(), digest_size=16).hexdigest()


# --------------------------------------------------------------------------------------------------------- checkpoints


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints in a folder, from the oldest to the newest."""
    return sorted(path for path in out.glob("step-*") if path.suffix != ".partial")


async def save_checkpoint(out: Path, model: ByteModel, loader: AsyncPrefetcher[Batch]) -> None:
    """Save model and loader together, in a folder that gets its name when all of it is on the disk.

    If the program is killed meanwhile, the earlier checkpoints stay, and a ``.partial`` folder that is not read.
    """
    state = await loader.get_state()
    whole = out / f"step-{model.steps:08d}"
    partial = whole.with_suffix(".partial")
    await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
    partial.mkdir(parents=True)
    await state.save(partial / "loader.safetensors")
    await asyncio.to_thread(write_durably, partial / "model.safetensors", safetensors.numpy.save(model.state()))
    await asyncio.to_thread(finish, partial, whole)


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def finish(partial: Path, whole: Path) -> None:
    """Give a folder its final name, and remove the oldest of the others."""
    sync_folder(partial)
    partial.rename(whole)
    sync_folder(whole.parent)
    for old in checkpoints(whole.parent)[:-KEEP_CHECKPOINTS]:
        shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def load_checkpoint(out: Path, model: ByteModel, shards: list[PackingIterator]) -> AsyncPrefetcher[Batch]:
    """Load the newest checkpoint into the model, and return the loader that continues from it."""
    found = checkpoints(out)
    if not found:
        raise UserError(f"{out} holds no checkpoint to resume from: leave out --resume, or name its folder with --out")
    # ``expect`` refuses a checkpoint of another corpus or another shape of batches, and lists the differences.
    state = await AsyncPrefetcherState.load(found[-1] / "loader.safetensors", expect=shards)
    model.load_state(safetensors.numpy.load_file(found[-1] / "model.safetensors"))
    if state.delivered.total != model.steps:
        raise UserError(f"{found[-1]}: the model took {model.steps} batches, the loader gave {state.delivered.total}")
    return state.build()


# -------------------------------------------------------------------------------------------------------- command line


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    job, kills = parse(arguments)
    try:
        if kills:
            pipelines(job)  # a bad corpus fails here, not in a child
            return 0 if asyncio.run(prove(command(job), job.out / "prove", steps=job.steps, kills=kills)) else 1
        asyncio.run(train(job))
    except (UserError, ProofError, DocumentError, AsyncPrefetchError, SafetensorError, OSError) as error:
        print(f"train_bytes: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_bytes: interrupted; --resume continues from the newest checkpoint", file=sys.stderr)
        return 130
    return 0


def parse(arguments: list[str]) -> tuple[Job, list[int]]:
    """The job, and the steps after which ``--prove`` kills it."""
    parser = argparse.ArgumentParser(prog="train_bytes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "corpus",
        nargs="*",
        help="folders, globs, .txt, .md, .py or .jsonl files (default: the standard library's sources)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/train_bytes"),
        help="folder for checkpoints and the log (default: %(default)s)",
    )
    parser.add_argument("--steps", type=positive, default=600, help="train to this step (default: %(default)s)")
    parser.add_argument("--checkpoint-every", type=positive, default=50, metavar="STEPS", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="ROWS", help="default: %(default)s")
    parser.add_argument("--sequence-length", type=positive, default=64, metavar="BYTES", help="default: %(default)s")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="continue from the newest whole checkpoint in the folder")
    either.add_argument(
        "--prove",
        action="store_true",
        help="train undisturbed, and again with two SIGKILLs; compare all batches and weights",
    )
    parser.add_argument(
        "--kill-after", type=positive, nargs=2, metavar="STEP", help="with --prove: where to kill (default: at random)"
    )
    parser.add_argument(
        "--announce", action="store_true", help="for other programs: print a line for each step and wait for an answer"
    )
    options = vars(parser.parse_args(arguments))
    kill_after, asked = options.pop("kill_after"), options.pop("prove")
    job = Job(**options)
    if not asked:
        return job, []
    if job.checkpoint_every + 2 >= job.steps:
        parser.error("--prove kills twice after the first checkpoint: more --steps, or a smaller --checkpoint-every")
    kills = sorted(kill_after or random_kills(job.steps, job.checkpoint_every))
    if not job.checkpoint_every < kills[0] < kills[1] < job.steps:
        parser.error("--kill-after takes two different steps, after the first checkpoint and before the last step")
    return job, kills


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def command(job: Job) -> list[str]:
    """The command line that trains as ``job`` says, without the folder."""
    sizes = {
        "--steps": job.steps,
        "--checkpoint-every": job.checkpoint_every,
        "--batch-size": job.batch_size,
        "--sequence-length": job.sequence_length,
    }
    return [sys.executable, __file__, *job.corpus, *(str(part) for option in sizes.items() for part in option)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
