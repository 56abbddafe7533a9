"""A small convolutional network that learns from results what an image adds to the log-odds of a click.

It sees an image as `SIDE` × `SIDE` pixels and is trained on the residuals of the project's own ads, nothing else: no
weights come from outside. Statistics without learning are in `images`; whole networks from a folder in `local_models`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from within_ml.errors import InputError, ModelFormatError
from within_ml.features.images import ImageInput, open_image

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

SIDE = 64
"""Pixels of a side that the network sees; other shapes are squeezed into the square."""

_FILE = "image_network.safetensors"
_CHANNELS = (12, 24, 32)
_BATCH = 64
_DECIMALS = 5
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 1e-2
_MAX_RESIDUAL = 3.0


@dataclass(frozen=True, slots=True)
class ImageEvidence:
    """What the rows of each image showed: mean residual on the log-odds scale, shape (n,), and its precision."""

    residual: Floats
    precision: Floats

    @classmethod
    def from_rows(
        cls, image: npt.NDArray[np.int64], n_images: int, y: Floats, p: Floats, w: Floats, *, between: float
    ) -> Self:
        """Sum rows by image: one Newton step from the rates ``p``, Σ w (y - p) / Σ w p (1 - p).

        Parameters
        ----------
        image : shape (rows,)
            Number of each row's image, below 0 for none.
        y, p, w : shape (rows,)
            Rates, expected rates and impressions.
        between : float
            Variance between ads of one image that no number of clicks removes; it bounds the precision.
        """
        rows = (image >= 0) & (w > 0)
        gradient = np.bincount(image[rows], (w * (y - p))[rows], minlength=n_images)
        hessian = np.bincount(image[rows], (w * p * (1 - p))[rows], minlength=n_images)
        some = hessian > 0
        residual = np.divide(gradient, hessian, out=np.zeros(n_images), where=some)
        precision = np.where(some, 1 / (between + 1 / np.where(some, hessian, 1.0)), 0.0)
        return cls(np.clip(residual, -_MAX_RESIDUAL, _MAX_RESIDUAL), precision)


class ImageNetwork:
    """Three strided convolutions, mean over places, one linear output; fitted by weighted least squares on residuals.

    How long to train is decided by images left out, in ``folds`` parts: the number of passes is the one with the least
    squared error on them, and the output is multiplied by the slope of their residuals on what was predicted for them,
    0 where that does not help. `out_of_fold_` are these predictions.

    Parameters
    ----------
    epochs : int
        Most passes over the images.
    folds : int
        Parts, at least 2.
    random_state : int
        Seed of weights, order and mirroring. Torch's global generator is left as it was.

    Attributes
    ----------
    slope_ : float
        The factor described above; 0 if pixels say nothing.
    epochs_ : int
        Passes of the final fit.
    out_of_fold_ : array, shape (n,)
        Prediction for each image by a network that did not see it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> light = rng.random(80) < 0.5
    >>> pixels = np.where(light[:, None, None, None], 200, 40) + rng.integers(0, 40, (80, SIDE, SIDE, 3))
    >>> evidence = ImageEvidence(np.where(light, 0.3, -0.3), np.full(80, 50.0))
    >>> network = ImageNetwork(epochs=8).fit(pixels.astype(np.uint8), evidence)
    >>> score = network.predict(pixels.astype(np.uint8))
    >>> bool(score[light].min() > score[~light].max())
    True
    """

    def __init__(self, *, epochs: int = 30, folds: int = 3, random_state: int = 0) -> None:
        self.epochs = epochs
        self.folds = folds
        self.random_state = random_state

    def fit(self, pixels: Pixels, evidence: ImageEvidence) -> Self:
        """Fit on distinct images.

        Parameters
        ----------
        pixels : array of uint8, shape (n, SIDE, SIDE, 3)
        evidence : ImageEvidence of the n images

        Raises
        ------
        InputError
            If a shape is wrong or there are fewer images than folds.
        """
        _check_pixels(pixels)
        if len(pixels) < self.folds or self.folds < 2 or evidence.residual.shape != (len(pixels),):
            raise InputError(
                f"An image network needs evidence for each of at least {max(self.folds, 2)} images, however: "
                f"{len(pixels)} images, evidence of shape {evidence.residual.shape}."
            )
        precision = evidence.precision / max(float(evidence.precision.mean()), 1e-300)
        # The level of all images is no merit of any.
        target = evidence.residual - np.average(evidence.residual, weights=np.maximum(precision, 1e-12))
        whole = pixels.astype(np.float64)
        self.mean_, self.scale_ = whole.mean(axis=(0, 1, 2)), np.maximum(whole.std(axis=(0, 1, 2)), 1.0)
        fold = np.random.default_rng(self.random_state).permutation(len(pixels)) % self.folds
        by_epoch = np.zeros((self.epochs, len(pixels)))
        for k in range(self.folds):
            held = fold == k
            _, by_epoch[:, held] = self._trained(pixels[~held], target[~held], precision[~held], pixels[held])
        losses = ((by_epoch - target) ** 2) @ precision
        self.epochs_ = int(losses.argmin()) + 1
        raw = by_epoch[self.epochs_ - 1]
        square = float(precision @ raw**2)
        self.slope_ = max(0.0, float(precision @ (raw * target)) / square) if square > 1e-12 else 0.0
        if float(precision @ (self.slope_ * raw - target) ** 2) >= float(precision @ target**2):
            self.slope_ = 0.0
        self.out_of_fold_ = np.round(self.slope_ * raw, _DECIMALS) + 0.0
        self.weights_, _ = self._trained(pixels, target, precision, pixels[:0], epochs=self.epochs_)
        logger.info(
            "image network: %d images, %d epochs, slope %.2f", len(pixels), self.epochs_, self.slope_
        )  # fmt: skip
        return self

    def predict(self, pixels: Pixels) -> Floats:
        """Return what each image adds to the log-odds, shape (n,), rounded so that the batch does not matter."""
        _check_pixels(pixels)
        network = _network()
        network.load_state_dict(self.weights_)
        return np.round(self.slope_ * self._output(network, pixels), _DECIMALS) + 0.0

    def save(self, folder: Path) -> None:
        """Write the weights as ``image_network.safetensors`` into an existing folder."""
        import torch
        from safetensors.torch import save_file

        numbers = {
            "mean": torch.tensor(self.mean_),
            "scale": torch.tensor(self.scale_),
            "fitted": torch.tensor([self.slope_, float(self.epochs_)], dtype=torch.float64),
            "given": torch.tensor([self.epochs, self.folds, self.random_state]),
        }
        save_file({**self.weights_, **numbers}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the training images' `out_of_fold_` are not kept.

        Raises
        ------
        ModelFormatError
            If the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(folder / _FILE)
            epochs, folds, random_state = (int(value) for value in found.pop("given"))
            network = cls(epochs=epochs, folds=folds, random_state=random_state)
            slope, passes = (float(value) for value in found.pop("fitted"))
            network.slope_, network.epochs_ = slope, int(passes)
            network.mean_, network.scale_ = found.pop("mean").numpy(), found.pop("scale").numpy()
            _network().load_state_dict(found)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ModelFormatError(f"{folder} must hold a saved image network; it does not ({error}).") from error
        network.weights_ = found
        return network

    def _trained(
        self, pixels: Pixels, target: Floats, precision: Floats, held: Pixels, *, epochs: int | None = None
    ) -> tuple[dict[str, torch.Tensor], Floats]:
        """Train from scratch; return the weights, and the output for held-out images after each pass."""
        import torch

        outputs = []
        with _one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            network = _network()
            optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
            x = self._tensor(pixels)
            y, w = torch.tensor(target, dtype=torch.float32), torch.tensor(precision, dtype=torch.float32)
            for _ in range(epochs or self.epochs):
                network.train()
                for rows in torch.split(torch.randperm(len(x)), _BATCH):
                    batch = x[rows]
                    mirrored = torch.rand(len(rows)) < 0.5
                    batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
                    loss = (w[rows] * (network(batch).squeeze(1) - y[rows]) ** 2).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                outputs.append(self._output(network, held))
        return {name: value.detach().clone() for name, value in network.state_dict().items()}, np.array(outputs)

    def _output(self, network: torch.nn.Module, pixels: Pixels) -> Floats:
        """Run the network in batches of one size, filled up: a batch of another size may round otherwise."""
        import torch

        network.eval()
        results = [np.zeros(0)]
        with _one_thread(), torch.no_grad():
            for start in range(0, len(pixels), _BATCH):
                part = pixels[start : start + _BATCH]
                full = np.zeros((_BATCH, SIDE, SIDE, 3), np.uint8)
                full[: len(part)] = part
                results.append(network(self._tensor(full)).squeeze(1).numpy()[: len(part)].astype(np.float64))
        return np.concatenate(results)

    def _tensor(self, pixels: Pixels) -> torch.Tensor:
        import torch

        scaled = (pixels.astype(np.float32) - self.mean_.astype(np.float32)) / self.scale_.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def _network() -> torch.nn.Sequential:
    from torch import nn

    first, second, third = _CHANNELS
    layers = [
        # Patches of 4 × 4 pixels first: it is a third of the work of a stride of 2, and shapes are larger than that.
        nn.Conv2d(3, first, 4, stride=4),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, stride=2, padding=1),
        nn.ReLU(),
    ]
    last = nn.Linear(_CHANNELS[-1], 1)
    # Training starts from "no image differs".
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are added up in one order, whatever machine this is; and small convolutions gain nothing from threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_pixels(pixels: Pixels) -> None:
    if pixels.shape[1:] != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise InputError(
            f"pixels must be uint8 of shape (n, {SIDE}, {SIDE}, 3), however: {pixels.dtype} of shape {pixels.shape}."
        )


def pixels_of(images: Sequence[ImageInput]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Decode images to what the network sees, shape (n, SIDE, SIDE, 3), and which of them could be read, shape (n,).

    >>> pixels, there = pixels_of([None, np.full((5, 9), 7, np.uint8)])
    >>> pixels.shape, there.tolist(), int(pixels[1].max())
    ((2, 64, 64, 3), [False, True], 7)
    """
    pixels = np.zeros((len(images), SIDE, SIDE, 3), np.uint8)
    there = np.zeros(len(images), dtype=bool)
    for i, image in enumerate(images):
        opened = open_image(image, side=SIDE, square=True)
        if opened.image is not None:
            pixels[i], there[i] = np.asarray(opened.image), True
    return pixels, there


def expected_rates(y: Floats, w: Floats, groups: npt.NDArray[np.int64], *, strength: float) -> Floats:
    """Return each row's group's rate, drawn to the overall one by ``strength`` impressions, shape (n,).

    >>> expected_rates(np.array([0.1, 0.3]), np.array([100.0, 100.0]), np.array([0, 1]), strength=100.0)
    array([0.15, 0.25])
    """
    overall = float(y @ w) / float(w.sum())
    clicks, impressions = np.bincount(groups, y * w), np.bincount(groups, w)
    rate = (clicks + strength * overall) / (impressions + strength)
    found: Floats = np.clip(rate, 1e-6, 1 - 1e-6)[groups]
    return found
