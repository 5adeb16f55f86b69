"""Draw the losses that training runs logged:  python examples/loss_curve.py runs/train_bytes/steps.jsonl --out loss.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sceptic import Step, StepLog

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

SMOOTHED_OVER = 20


def draw(logs: list[Path], kills: list[int], out: Path) -> None:
    """One curve for each log. If a step was trained twice, the last time counts. Kills are dashed lines."""
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for number, log in enumerate(logs):
        draw_curve(axes, StepLog.read(log), log.parent.name, wide=number == 0)
    for kill in kills:
        axes.axvline(kill, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            f"SIGKILL after {kill}",
            (kill, 0.97),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
        )
    axes.set(xlabel="step", ylabel="loss, nats a byte", title="Byte-level language model")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    figure.savefig(out, dpi=120)


def draw_curve(axes: Axes, steps: list[Step], name: str, *, wide: bool) -> None:
    losses = {step.step: step.loss for step in steps}
    xs, ys = np.array(list(losses)), np.array(list(losses.values()))
    window = min(SMOOTHED_OVER, len(ys))
    smooth = np.convolve(ys, np.full(window, 1 / window), "valid")
    # The first curve is wide and pale: it stays visible under a second one that lies exactly on it.
    [line] = axes.plot(xs[window - 1 :], smooth, label=name, linewidth=6 if wide else 1.5, alpha=0.35 if wide else 1)
    axes.plot(xs, ys, ".", color=line.get_color(), alpha=0.15, markersize=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("logs", nargs="+", type=Path, metavar="steps.jsonl", help="what train_bytes.py logged")
    parser.add_argument("--kills", nargs="*", type=int, default=[], help="steps to mark")
    parser.add_argument("--out", type=Path, default=Path("loss.png"), help="the picture (default: %(default)s)")
    options = parser.parse_args()
    draw(options.logs, options.kills, options.out)


if __name__ == "__main__":
    main()
