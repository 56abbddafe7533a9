"""Text and image models that lie in a local folder: sentence-transformers and torchvision, both optional.

Nothing is ever downloaded, and nothing in a folder is executed or unpickled: weights are safetensors.

A folder of ``text_model`` is one that sentence-transformers saved (``model.save(folder)``), with ``model.safetensors``.

A folder of ``image_model`` holds two files:

``model.json``
    ``{"architecture": "resnet18"}``, a classification architecture of torchvision by its name; optional are
    ``"input_size"`` (pixels of a side, 224), ``"mean"`` and ``"std"`` (three numbers each; ImageNet's).
``weights.safetensors``
    Its state dict: ``safetensors.torch.save_file(network.state_dict(), "weights.safetensors")``.

The embedding is what goes into the classifying head; weights of the head may be missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.features.images import ImageInput, open_image

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]

EXTRA = "within[embeddings]"
_WEIGHTS = "weights.safetensors"
_HEADS = ("fc", "classifier", "heads", "head")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH = 32
_DECIMALS = 5


def local_folder(argument: str, name: str, builtin: Sequence[str]) -> Path:
    """Return the folder that an argument names.

    Raises
    ------
    InputError
        If it is neither a built-in name nor a folder.

    Examples
    --------
    >>> local_folder("text_model", "all-MiniLM-L6-v2", ["tfidf"])
    Traceback (most recent call last):
    ...
    within_ml.errors.InputError: text_model must be 'tfidf' or a local folder with a model, however ...
    """
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"{argument} must be {shown(builtin)} or a local folder with a model, however there is no folder {name!r}. "
            "Nothing is ever downloaded: put the model's files into a folder first and give its path."
        )
    return folder


def folder_digest(folder: Path) -> str:
    """Return a hash of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class SentenceFolder:
    """A sentence-transformers model of a local folder.

    Raises
    ------
    InputError
        If the package is missing, or the folder holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise InputError(
                f"A text_model in a folder needs the package sentence-transformers ({error}); install {EXTRA}."
            ) from error
        if not any(folder.rglob("*.safetensors")):
            raise InputError(
                f"The folder of a text_model must hold its weights as safetensors, however {folder} has none. "
                "Save the model again with sentence-transformers' model.save(folder)."
            )
        try:
            self.model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"The folder of a text_model must be one that sentence-transformers saved, however {folder} cannot be "
                f"loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
            ) from error
        self.model.eval()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings, shape (n, d), rounded: what a text is batched with moves the last bits."""
        if not len(texts):
            return np.zeros((0, self.width))
        found = self.model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(np.round(np.asarray(found, dtype=np.float64), _DECIMALS), dtype=np.float64)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return int(self.model.encode(["a"], show_progress_bar=False).shape[1])


class VisionFolder:
    """A torchvision classification network of a local folder, without its head.

    Raises
    ------
    InputError
        If the package is missing, or the folder does not hold what the module's description says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        told = _description(folder)
        try:
            from torchvision import models
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"An image_model in a folder needs the package torchvision ({error}); install {EXTRA}."
            ) from error
        known = models.list_models(module=models)
        if told.get("architecture") not in known:
            raise InputError(
                f"model.json must name one of torchvision's architectures ({shown(known)}), however "
                f"{folder} names {told.get('architecture')!r}."
            )
        self.side = int(told.get("input_size", 224))
        self._mean = np.asarray(told.get("mean", _MEAN), dtype=np.float32)
        self._std = np.asarray(told.get("std", _STD), dtype=np.float32)
        if self._mean.shape != (3,) or self._std.shape != (3,) or not (self._std > 0).all() or self.side < 1:
            raise InputError(
                f"model.json of {folder} must have input_size ≥ 1 and three numbers each of mean and std > 0."
            )
        self.network = _headless(models.get_model(told["architecture"], weights=None), folder)

    def embed(self, images: Sequence[ImageInput]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return the embeddings, shape (n, d), and which images could be read, shape (n,)."""
        import torch

        parts, there = [], np.zeros(len(images), dtype=bool)
        for start in range(0, max(len(images), 1), _BATCH):
            batch = np.zeros((_BATCH, self.side, self.side, 3), np.float32)
            count = 0
            for i, image in enumerate(images[start : start + _BATCH]):
                opened = open_image(image, side=self.side, square=True)
                count += 1
                if opened.image is not None:
                    batch[i], there[start + i] = np.asarray(opened.image, dtype=np.float32) / 255, True
            scaled = ((batch - self._mean) / self._std).transpose(0, 3, 1, 2)
            with torch.no_grad():
                output = self.network(torch.from_numpy(np.ascontiguousarray(scaled)))
            parts.append(output.reshape(_BATCH, -1).numpy()[:count].astype(np.float64))
        found = np.round(np.concatenate(parts), _DECIMALS)
        return np.where(there[:, None], found, 0.0), there


def _description(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f'The folder of an image_model must hold model.json, such as {{"architecture": "resnet18"}}, and '
            f"{_WEIGHTS}, however: {error}."
        ) from error
    if not isinstance(told, dict) or not (folder / _WEIGHTS).is_file():
        raise InputError(f"The folder of an image_model must hold an object in model.json and {_WEIGHTS}: {folder}.")
    return told


def _headless(network: torch.nn.Module, folder: Path) -> torch.nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    heads = [name for name in _HEADS if hasattr(network, name)]
    if not heads:
        raise InputError(f"The image_model of {folder} must be a network with a classifying head; it has none.")
    setattr(network, heads[0], nn.Identity())
    try:
        weights = load_file(folder / _WEIGHTS)
        found = network.load_state_dict(weights, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{_WEIGHTS} of {folder} must fit the architecture of model.json; it does not: {error}."
        ) from error
    foreign = [name for name in found.unexpected_keys if not name.startswith(f"{heads[0]}.")]
    if found.missing_keys or foreign:
        raise InputError(
            f"{_WEIGHTS} of {folder} must fit the architecture of model.json; missing: "
            f"{shown(found.missing_keys) or 'none'}, unknown: {shown(foreign) or 'none'}."
        )
    return network.eval()


def require_same(folder: Path, digest: str) -> None:
    """Check that a folder still holds what a saved extractor was fitted with.

    Raises
    ------
    ModelFormatError
        If it is gone or has changed.
    """
    if not folder.is_dir() or folder_digest(folder) != digest:
        raise ModelFormatError(
            f"The extractor was fitted with the model in {folder}, which is gone or has changed since; put it back."
        )
