"""Statistics of an ad's image: colour, edges and layout, without any model and without any other ad.

Stateless, as the content features of a text are: the same pixels have the same features on every day. Which file an ad
shows on a day is the feature runner's business, what is learned from results stands in `image_network`.

An image is looked at as people see it: rotated as its EXIF says, on white where it is transparent, the first frame of a
moving one. Everything but its size is measured on a copy of at most `WORKING_SIDE` pixels a side, so that an edge means
the same on a large and on a small copy of one picture.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from within_ml.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
ImageInput = str | Path | bytes | npt.NDArray[Any] | None
"""A path, the bytes of a file, an array (height, width) or (height, width, 3) of uint8, or None for no image."""

WORKING_SIDE = 128
"""Longer side in pixels of the copy that is measured; smaller images stay as they are."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")

_EDGE = 32
"""Least difference of brightness over two pixels, of 255, that is an edge."""

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What rights an image of each EXIF orientation."""

_DECIMALS = 6
_TILES = 12


@dataclass(frozen=True, slots=True)
class ImageFeature:
    """One image feature: its name, what it says, its unit, and the version of its definition.

    >>> IMAGE_FEATURES[0].name, IMAGE_FEATURES[0].unit
    ('image_width', 'pixels')
    """

    name: str
    meaning: str
    unit: str
    version: int = 1


IMAGE_FEATURES: tuple[ImageFeature, ...] = (
    ImageFeature("image_width", "Width of the image", "pixels"),
    ImageFeature("image_height", "Height of the image", "pixels"),
    ImageFeature("image_aspect_ratio", "Width over height", "ratio"),
    ImageFeature("image_red_mean", "Mean of the red channel", "0 to 1"),
    ImageFeature("image_green_mean", "Mean of the green channel", "0 to 1"),
    ImageFeature("image_blue_mean", "Mean of the blue channel", "0 to 1"),
    ImageFeature("image_red_sd", "Standard deviation of the red channel", "0 to 0.5"),
    ImageFeature("image_green_sd", "Standard deviation of the green channel", "0 to 0.5"),
    ImageFeature("image_blue_sd", "Standard deviation of the blue channel", "0 to 0.5"),
    ImageFeature("image_warmth", "Mean of red minus mean of blue", "-1 to 1"),
    ImageFeature("image_saturation", "Mean saturation (HSV)", "0 to 1"),
    ImageFeature(
        "image_colourfulness",
        "Colourfulness M3 of Hasler and Süsstrunk (2003) on channels from 0 to 255",
        "points, above 82 is extremely colourful",
    ),
    ImageFeature("image_colour_entropy", "Entropy of 64 equal cells of the RGB cube", "bits"),
    ImageFeature("image_brightness", "Mean luma (ITU-R 601)", "0 to 1"),
    ImageFeature("image_contrast", "Standard deviation of luma", "0 to 0.5"),
    ImageFeature("image_luma_range", "95th minus 5th percentile of luma", "0 to 1"),
    ImageFeature("image_luma_entropy", "Entropy of luma in 32 equal bins", "bits"),
    ImageFeature("image_edge_strength", "Mean size of the gradient of luma", "0 to 1"),
    ImageFeature("image_edge_density", f"Share of pixels with a gradient of at least {_EDGE} of 255", "fraction"),
    ImageFeature("image_edge_entropy", "Entropy of the directions of edges in 8 bins; 0 without an edge", "bits"),
    ImageFeature("image_centre_x", "Centre of the gradients' energy from left to right; 0.5 without any", "0 to 1"),
    ImageFeature("image_centre_y", "Centre of the gradients' energy from top to bottom; 0.5 without any", "0 to 1"),
    ImageFeature("image_spread", "Root mean square distance of the energy from its centre, in sides", "0 to 0.71"),
    ImageFeature("image_middle_share", "Share of the energy in the middle ninth of the image", "fraction"),
    ImageFeature("image_thirds_share", "Share of the energy around the four crossings of the thirds", "fraction"),
    ImageFeature("image_symmetry", "Correlation of luma with its mirror image; 1 for a plain one", "-1 to 1"),
    ImageFeature("image_blank_share", f"Share of {_TILES} × {_TILES} tiles without an edge", "fraction"),
    ImageFeature(
        "image_text_likeness",
        f"Share of {_TILES} × {_TILES} tiles with many edges to the dark and to the light, as lettering has",
        "fraction",
    ),
)
"""The catalog of image features, in the order of the columns of `image_features`."""

_NAMES = tuple(feature.name for feature in IMAGE_FEATURES)


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What was measured, shape (n_images, len(IMAGE_FEATURES)), and why an image has no values (None where it has)."""

    table: pa.Table
    reasons: tuple[str | None, ...]


def image_features(images: Sequence[ImageInput]) -> ImageStatistics:
    """Measure each image; one that is missing or cannot be read has nulls, and the reason is told.

    Parameters
    ----------
    images : sequence of path, bytes, array or None, shape (n_images,)
        See `ImageInput`. Arrays are uint8, (height, width, 3) in RGB or (height, width).

    Returns
    -------
    ImageStatistics
        float64 columns named as in `IMAGE_FEATURES`.

    Raises
    ------
    InputError
        If an element is none of these, or an array of another shape or type.

    Examples
    --------
    >>> red = np.zeros((40, 60, 3), np.uint8)
    >>> red[..., 0] = 255
    >>> found = image_features([red, None, b"no image"])
    >>> found.table.select(["image_aspect_ratio", "image_warmth", "image_contrast"]).to_pylist()[0]
    {'image_aspect_ratio': 1.5, 'image_warmth': 1.0, 'image_contrast': 0.0}
    >>> found.table["image_warmth"].null_count, found.reasons[1]
    (2, 'no image')
    """
    rows: list[dict[str, float] | None] = []
    reasons: list[str | None] = []
    for image in images:
        opened = open_image(image, side=WORKING_SIDE)
        reasons.append(opened.reason)
        rows.append(None if opened.image is None else _measured(opened.image, opened.width, opened.height))
    if counts := Counter(reason for reason in reasons if reason is not None and reason != NO_IMAGE):
        told = "; ".join(f"{count} × {reason}" for reason, count in counts.most_common(3))
        logger.warning("%d of %d images cannot be read: %s", sum(counts.values()), len(rows), told)
    columns = {name: [None if row is None else row[name] for row in rows] for name in _NAMES}
    return ImageStatistics(pa.table({n: pa.array(c, pa.float64()) for n, c in columns.items()}), tuple(reasons))


NO_IMAGE = "no image"


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An RGB image of at most the wanted side and the size of the original, or None and why there is none."""

    image: Image | None
    width: int
    height: int
    reason: str | None


def open_image(image: ImageInput, *, side: int, square: bool = False) -> OpenedImage:
    """Decode an image and shrink it to at most ``side`` pixels a side, or to a square of exactly that.

    Nothing is decoded of a file whose header promises more pixels than Pillow's limit against decompression bombs.

    Raises
    ------
    InputError
        As in `image_features`.
    """
    if image is None:
        return OpenedImage(None, 0, 0, NO_IMAGE)
    if not isinstance(image, str | Path | bytes | np.ndarray):
        raise InputError(f"An image must be a path, bytes, an array of uint8 or None, however: {type(image).__name__}.")
    from PIL import Image as PillowImage

    bombs = (PillowImage.DecompressionBombWarning, PillowImage.DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            if isinstance(image, np.ndarray):
                picture = _of_array(image)
                return OpenedImage(_shrunk(picture, side, square=square), *picture.size, None)
            return _of_file(image, side, square=square)
    except bombs:
        return OpenedImage(None, 0, 0, "more pixels than Pillow's limit")
    except FileNotFoundError:
        return OpenedImage(None, 0, 0, "no such file")
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError) as error:
        return OpenedImage(None, 0, 0, f"not a readable image ({type(error).__name__})")


def _of_array(pixels: npt.NDArray[Any]) -> Image:
    from PIL import Image as PillowImage

    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not shaped or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            "An image as an array must be uint8 of shape (height, width, 3) or (height, width), however: "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    return PillowImage.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _of_file(image: str | Path | bytes, side: int, *, square: bool) -> OpenedImage:
    from PIL import Image as PillowImage

    with PillowImage.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
        width, height = opened.size
        turn = opened.getexif().get(_EXIF_ORIENTATION, 1)
        # A JPEG can be decoded at a fraction of its size; twice the wanted side leaves the shrinking to us.
        opened.draft("RGB", (2 * side, 2 * side))
        opened.load()
        # Turned when it is small: that is cheaper, and the same.
        picture = _shrunk(_on_white(opened), side, square=square)
        if turn in _TURNS:
            picture = picture.transpose(PillowImage.Transpose[_TURNS[turn]])
        elif picture is opened:
            picture = picture.copy()
    size = (height, width) if turn >= 5 and turn in _TURNS else (width, height)
    return OpenedImage(picture, *size, None)


def _on_white(picture: Image) -> Image:
    """Return the picture in RGB, transparent parts on white, 16 bits shortened to 8."""
    from PIL import Image as PillowImage

    if picture.mode.startswith("I") or picture.mode == "F":
        deep = np.asarray(picture, dtype=np.float64)
        scale = 65535.0 if deep.max(initial=0) > 255 else 255.0
        return PillowImage.fromarray(np.clip(deep / scale * 255, 0, 255).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = PillowImage.new("RGBA", picture.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(ground, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _shrunk(picture: Image, side: int, *, square: bool) -> Image:
    from PIL.Image import Resampling

    if square:
        return picture if picture.size == (side, side) else picture.resize((side, side), Resampling.BOX)
    longer = max(picture.size)
    if longer <= side:
        return picture
    wanted = (max(1, round(picture.width * side / longer)), max(1, round(picture.height * side / longer)))
    return picture.resize(wanted, Resampling.BOX)


def _measured(picture: Image, width: int, height: int) -> dict[str, float]:
    """Measure the working copy; sums are of whole numbers wherever they can be, the same on every machine."""
    luma = picture.convert("L")
    grey = np.asarray(luma, dtype=np.int16)
    values = {"image_width": width, "image_height": height, "image_aspect_ratio": width / height}
    values |= _colour(picture, np.asarray(luma.histogram(), dtype=np.int64))
    values |= _edges_and_layout(grey)
    values["image_symmetry"] = _symmetry(grey)
    return {name: round(float(value), _DECIMALS) + 0.0 for name, value in values.items()}


def _colour(picture: Image, luma: npt.NDArray[np.int64]) -> dict[str, float]:
    levels = np.arange(256)
    counts = np.asarray(picture.histogram(), dtype=np.int64).reshape(3, 256)
    n = int(luma.sum())
    mean = counts @ levels / n
    sd = np.sqrt(np.maximum(counts @ levels**2 / n - mean**2, 0))
    grey = float(luma @ levels / n)
    below = np.cumsum(luma)
    low, high = np.searchsorted(below, [0.05 * n, 0.95 * n])
    names = ("red", "green", "blue")
    rgb = np.asarray(picture, dtype=np.int16)
    return {
        **{f"image_{c}_mean": mean[i] / 255 for i, c in enumerate(names)},
        **{f"image_{c}_sd": sd[i] / 255 for i, c in enumerate(names)},
        "image_warmth": (mean[0] - mean[2]) / 255,
        "image_saturation": float(np.asarray(picture.convert("HSV").histogram()[256:512]) @ levels) / n / 255,
        "image_colourfulness": _colourfulness(rgb),
        "image_colour_entropy": _entropy(np.bincount(_cells(rgb), minlength=64)),
        "image_brightness": grey / 255,
        "image_contrast": math.sqrt(max(float(luma @ levels**2) / n - grey**2, 0.0)) / 255,
        "image_luma_range": float(high - low) / 255,
        "image_luma_entropy": _entropy(luma.reshape(32, 8).sum(axis=1)),
    }


def _cells(rgb: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    quarter = rgb >> 6
    cells: npt.NDArray[np.int16] = (quarter[..., 0] << 4 | quarter[..., 1] << 2 | quarter[..., 2]).ravel()
    return cells


def _colourfulness(rgb: npt.NDArray[np.int16]) -> float:
    """M3 of Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images", section 5."""
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    opponents = (red - green, red + green - 2 * blue)
    n = red.size
    # The second one is yellow-blue doubled, so that it stays a whole number.
    mean = [float(o.sum()) / n / (i + 1) for i, o in enumerate(opponents)]
    square = [float((o * o).sum(dtype=np.int64)) / n / (i + 1) ** 2 for i, o in enumerate(opponents)]
    spread = max(square[0] - mean[0] ** 2, 0.0) + max(square[1] - mean[1] ** 2, 0.0)
    return math.sqrt(spread) + 0.3 * math.hypot(*mean)


def _edges_and_layout(grey: npt.NDArray[np.int16]) -> dict[str, float]:
    padded = np.pad(grey, 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    squared = across.astype(np.int32) ** 2 + down.astype(np.int32) ** 2
    edge = squared >= _EDGE**2
    # Directions without sign, as bins of the half circle.
    angle = np.arctan2(down[edge], across[edge])
    bins = np.round(angle / np.pi * 8).astype(np.int64) % 8
    darker, lighter = across <= -_EDGE, across >= _EDGE
    tiles = _tile_means(np.stack([edge, darker, lighter]))
    strokes = np.minimum(tiles[1], tiles[2]) >= 0.08
    return {
        "image_edge_strength": float(np.sqrt(squared).mean()) / (255 * np.sqrt(2)),
        "image_edge_density": float(edge.mean()),
        "image_edge_entropy": _entropy(np.bincount(bins, minlength=8)),
        "image_blank_share": float((tiles[0] == 0).mean()),
        "image_text_likeness": float(strokes.mean()),
        **_layout(squared),
    }


def _layout(energy: npt.NDArray[np.int32]) -> dict[str, float]:
    """Where the energy is: its centre and spread in units of the sides, its share in the middle and near the thirds."""
    height, width = energy.shape
    total = int(energy.sum(dtype=np.int64))
    if total == 0:
        return {
            "image_centre_x": 0.5,
            "image_centre_y": 0.5,
            "image_spread": 0.0,
            "image_middle_share": 0.0,
            "image_thirds_share": 0.0,
        }
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    by_x, by_y = energy.sum(axis=0, dtype=np.int64) / total, energy.sum(axis=1, dtype=np.int64) / total
    cx, cy = float(by_x @ x), float(by_y @ y)
    variance = float(by_x @ (x - cx) ** 2 + by_y @ (y - cy) ** 2)
    middle = [np.abs(side - 0.5) <= 1 / 6 for side in (y, x)]
    thirds = [np.abs(np.abs(side - 0.5) - 1 / 6) <= 1 / 12 for side in (y, x)]
    return {
        "image_centre_x": cx,
        "image_centre_y": cy,
        "image_spread": np.sqrt(variance),
        "image_middle_share": int(energy[np.ix_(*middle)].sum(dtype=np.int64)) / total,
        "image_thirds_share": int(energy[np.ix_(*thirds)].sum(dtype=np.int64)) / total,
    }


def _tile_means(masks: npt.NDArray[np.bool_]) -> Floats:
    """Mean of each mask in each tile, shape (masks, rows, columns); a small image has fewer tiles."""
    means = masks.astype(np.float64)
    for axis in (1, 2):
        starts = np.unique(np.arange(_TILES) * masks.shape[axis] // _TILES)
        sizes = np.diff(np.append(starts, masks.shape[axis]))
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        means = np.add.reduceat(means, starts, axis=axis) / sizes.reshape(shape)
    return means


def _symmetry(grey: npt.NDArray[np.int16]) -> float:
    values = grey.astype(np.int64)
    n, total = values.size, int(values.sum())
    variance = n * int((values**2).sum()) - total**2
    if variance == 0:
        return 1.0
    return (n * int((values * values[:, ::-1]).sum()) - total**2) / variance


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Entropy of a histogram in bits; 0 for an empty one."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(-(share * np.log2(share)).sum()) + 0.0
