"""A small language model over bytes, in numpy: embeddings of the last bytes -> a hidden layer -> the next byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asyncprefetch import Batch

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class ByteModel:
    """Predicts each token from the ``context`` tokens before it. Trained with Adam on cross entropy.

    It computes in float32, in a fixed order, and ``seed`` is its only randomness: the same batches give the same weights,
    bit for bit, on the same machine with the same number of BLAS threads.
    """

    def __init__(
        self, vocabulary: int, *, context: int = 8, embedding: int = 16, hidden: int = 128, seed: int = 0
    ) -> None:
        self.context = context
        self.steps = 0
        random = np.random.default_rng(seed)

        def normal(*shape: int, scale: float) -> Array:
            return random.normal(0.0, scale, shape).astype(np.float32)

        self.weights = {
            "embedding": normal(vocabulary, embedding, scale=1.0),
            "hidden": normal(context * embedding, hidden, scale=(2.0 / (context * embedding)) ** 0.5),
            "hidden_bias": np.zeros(hidden, np.float32),
            "output": normal(hidden, vocabulary, scale=hidden**-0.5),
            "output_bias": np.zeros(vocabulary, np.float32),
        }
        self.mean = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.square = {name: np.zeros_like(weight) for name, weight in self.weights.items()}

    def train_step(self, batch: Batch, *, rate: float = 2e-3) -> float:
        """Change the weights by one batch; the mean loss of its targets before the change, in nats a byte."""
        loss, gradients = self._loss_and_gradients(batch)
        self._adam(gradients, rate)
        return loss

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything that training needs to continue, as arrays by name. The model still uses them: write them at once."""
        parts = {"weight": self.weights, "mean": self.mean, "square": self.square}
        arrays = {f"{part}.{name}": array for part, group in parts.items() for name, array in group.items()}
        return {**arrays, "steps": np.array([self.steps])}

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Continue from what ``state()`` returned."""
        for name, array in self.state().items():
            if state[name].shape != array.shape or state[name].dtype != array.dtype:
                raise ValueError(f"{name} is of another model: {state[name].shape}, not {array.shape}")
            array[...] = state[name]
        self.steps = int(state["steps"][0])

    def _loss_and_gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        w = self.weights
        # The context of each target: the tokens before it in its row, and token 0, the padding, before the row begins.
        padded = np.pad(batch.x, ((0, 0), (self.context - 1, 0)))
        contexts = np.lib.stride_tricks.sliding_window_view(padded, self.context, axis=1)[batch.mask]
        targets, rows = batch.y[batch.mask], np.arange(contexts.shape[0])

        inputs = w["embedding"][contexts].reshape(len(rows), -1)
        hidden = np.maximum(inputs @ w["hidden"] + w["hidden_bias"], 0)
        logits = hidden @ w["output"] + w["output_bias"]
        logits -= logits.max(axis=1, keepdims=True)
        guess = np.exp(logits)
        total = guess.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - logits[rows, targets], dtype=np.float64))

        d_logits = guess / total
        d_logits[rows, targets] -= 1
        d_logits /= np.float32(len(rows))
        d_hidden = (d_logits @ w["output"].T) * (hidden > 0)
        d_inputs = d_hidden @ w["hidden"].T
        return loss, {
            "embedding": _sum_by_token(contexts.reshape(-1), d_inputs.reshape(contexts.size, -1), w["embedding"]),
            "hidden": inputs.T @ d_hidden,
            "hidden_bias": d_hidden.sum(axis=0),
            "output": hidden.T @ d_logits,
            "output_bias": d_logits.sum(axis=0),
        }

    def _adam(self, gradients: dict[str, Array], rate: float) -> None:
        self.steps += 1
        scale = np.float32(rate * (1 - 0.99**self.steps) ** 0.5 / (1 - 0.9**self.steps))
        for name, gradient in gradients.items():
            mean, square = self.mean[name], self.square[name]
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.01) * (gradient * gradient - square)
            self.weights[name] -= scale * mean / (np.sqrt(square) + np.float32(1e-8))


def _sum_by_token(tokens: Ids, gradients: Array, like: Array) -> Array:
    # np.add.at takes ten times as long: bring equal tokens together, and sum each run.
    order = np.argsort(tokens, kind="stable")
    found, begins = np.unique(tokens[order], return_index=True)
    summed = np.zeros_like(like)
    summed[found] = np.add.reduceat(gradients[order], begins, axis=0)
    return summed
