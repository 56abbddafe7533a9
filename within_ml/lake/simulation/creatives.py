"""What the simulated ads say and look like, and what that does to their ctr.

Headlines are put together from a theme's words, images from three numbers; both have effects drawn once per seed, so
that a model can learn them from other ads. When and where an ad runs belongs in `world`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.config import SimulationConfig, stream

if TYPE_CHECKING:
    from PIL.Image import Image

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

IMAGE_SIDE = 64
"""Width and height of an image, pixels."""

_IMAGE_CTR = (0.25, 0.20, -0.15)
"""Logit effect of warmth, contrast and busyness, per unit."""


@dataclass(frozen=True, slots=True, eq=False)
class WordEffects:
    """Logit effects: per theme, platform × theme, age × theme, gender × theme, theme × hook, theme × closer, adjective.

    Those with an audience have mean 0 over audiences and over themes: pure interactions.
    """

    theme: Floats
    platform_theme: Floats
    age_theme: Floats
    gender_theme: Floats
    hook: Floats
    closer: Floats
    adjective: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Creatives:
    """One value per ad, except ``looks``: (images, 3) with warmth, contrast and busyness in [0, 1].

    ``quality`` is the logit effect of text, image, format and of what neither tells.
    """

    theme: Ints
    hook: Ints
    adjective: Ints
    product: Ints
    closer: Ints
    call_to_action: Ints
    format: Ints
    image: Ints
    text_effect: Floats
    quality: Floats
    looks: Floats
    effects: WordEffects


def draw_creatives(config: SimulationConfig, platform: Ints, industry: Ints, account: Ints) -> Creatives:
    """Draw text, image and quality of each ad.

    Parameters
    ----------
    config : SimulationConfig
        Gives seed, strength of text, unexplained quality and number of images.
    platform, industry, account : array of shape (ads,)
        Codes of each ad's platform, industry and account.
    """
    rng = stream(config.seed, "creatives")
    effects = _word_effects(config)
    n = platform.size
    theme = rng.integers(len(words.THEMES), size=n)
    hook, closer = rng.integers(effects.hook.shape[1], size=n), rng.integers(effects.closer.shape[1], size=n)
    adjective = rng.integers(len(words.ADJECTIVES), size=n)
    shape = rng.choice(len(words.FORMATS), size=n, p=(0.6, 0.25, 0.15))
    looks = rng.random((min(config.max_images, max(n, 1)), 3))
    image = _images_of(rng, account, config.accounts, len(looks))
    text_effect = (
        effects.theme[theme]
        + effects.platform_theme[platform, theme]
        + effects.hook[theme, hook]
        + effects.closer[theme, closer]
        + effects.adjective[adjective]
    )
    quality = (
        text_effect
        + (looks[image] - 0.5) @ np.array(_IMAGE_CTR)
        + np.array(words.FORMAT_CTR)[shape]
        + rng.normal(0, config.unexplained, n)
    )
    return Creatives(
        theme=theme,
        hook=hook,
        adjective=adjective,
        product=rng.integers(len(words.INDUSTRIES[0].products), size=n),
        closer=closer,
        call_to_action=rng.integers(len(words.CALLS_TO_ACTION), size=n),
        format=shape,
        image=image,
        text_effect=text_effect,
        quality=quality,
        looks=looks,
        effects=effects,
    )


def _word_effects(config: SimulationConfig) -> WordEffects:
    rng, audience = stream(config.seed, "words"), stream(config.seed, "audience")
    themes, hooks, closers = len(words.THEMES), len(words.THEMES[0].hooks), len(words.THEMES[0].closers)
    strength = config.text_strength
    return WordEffects(
        theme=strength * rng.normal(0, 0.15, themes),
        platform_theme=strength * rng.normal(0, 0.08, (len(config.platforms), themes)),
        age_theme=_interaction(audience, len(words.AGES), themes, config.audience_strength / np.sqrt(2)),
        gender_theme=_interaction(audience, len(words.GENDERS), themes, config.audience_strength / np.sqrt(2)),
        hook=strength * rng.normal(0, 0.12, (themes, hooks)),
        closer=strength * rng.normal(0, 0.08, (themes, closers)),
        adjective=strength * rng.normal(0, 0.10, len(words.ADJECTIVES)),
    )


def _interaction(rng: np.random.Generator, rows: int, columns: int, size: float) -> Floats:
    """Draw effects without a row's or a column's own effect, with the given root mean square."""
    drawn = rng.standard_normal((rows, columns))
    drawn = drawn - drawn.mean(axis=0) - drawn.mean(axis=1, keepdims=True) + drawn.mean()
    return np.asarray(size * drawn / np.sqrt(np.mean(drawn**2)), dtype=np.float64)


def _images_of(rng: np.random.Generator, account: Ints, accounts: int, images: int) -> Ints:
    """Give each account its own images while there are enough of them, else let all share."""
    own = images // accounts
    if own == 0:
        return rng.integers(images, size=account.size)
    return account * own + rng.integers(own, size=account.size)


def headlines(creatives: Creatives, industry: Ints) -> list[str]:
    """Return the headline of each ad."""
    columns = (creatives.theme, creatives.hook, creatives.adjective, creatives.product, creatives.closer, industry)
    return [_headline(*codes) for codes in zip(*(c.tolist() for c in columns), strict=True)]


def _headline(theme: int, hook: int, adjective: int, product: int, closer: int, industry: int) -> str:
    parts = (
        words.THEMES[theme].hooks[hook],
        words.ADJECTIVES[adjective],
        words.INDUSTRIES[industry].products[product],
        words.THEMES[theme].closers[closer],
    )
    return " ".join(part for part in parts if part)


def bodies(creatives: Creatives, industry: Ints) -> list[str]:
    """Return the body text of each ad."""
    columns = (creatives.theme, creatives.product, industry)
    return [
        f"{words.INDUSTRIES[i].products[p].capitalize()} for you. {words.THEMES[t].body}"
        for t, p, i in zip(*(c.tolist() for c in columns), strict=True)
    ]


def draw_images(creatives: Creatives, seed: int) -> Iterator[Image]:
    """Yield the images in order, RGB, `IMAGE_SIDE` pixels square.

    Warmth is the way from blue to red, contrast the distance of shapes from the ground, busyness the number of shapes.
    """
    from PIL import Image, ImageDraw

    for index, (warmth, contrast, busyness) in enumerate(creatives.looks.tolist()):
        rng = stream(seed, "image", index)
        ground = (int(40 + 180 * warmth), 110, int(220 - 180 * warmth))
        ink = tuple(int(c + (255 - c) * (0.15 + 0.85 * contrast)) for c in ground)
        picture = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), ground)
        pen = ImageDraw.Draw(picture)
        for x, y, size in rng.integers(0, IMAGE_SIDE, size=(1 + round(11 * busyness), 3)).tolist():
            pen.ellipse((x, y, x + 6 + size // 4, y + 6 + size // 4), fill=ink)
        yield picture
