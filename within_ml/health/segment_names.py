"""Words for segments: what is notable about a segment's centre beside all entities.

A word that a segment had the night before stays until its centre is clearly back to ordinary (hysteresis), so that
noise does not rename a segment. Finding segments belongs in `segments`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORDINARY = "typical"


@dataclass(frozen=True, slots=True)
class Word:
    """Said of a segment whose value is beyond ``enter``, and still said while it is beyond ``stay``."""

    word: str
    feature: str
    enter: float
    stay: float

    def holds(self, centre: Mapping[str, float], *, said: bool) -> bool:
        """Tell whether the word is right for a centre.

        >>> WORDS[0].holds({"monetary": 0.6}, said=True), WORDS[0].holds({"monetary": 0.6}, said=False)
        (True, False)
        """
        value, limit = centre[self.feature], self.stay if said else self.enter
        return value > limit if self.enter > 0 else value < limit


WORDS = (
    Word("large", "monetary", 0.8, 0.5),
    Word("small", "monetary", -0.8, -0.5),
    Word("dormant", "recency_days", 10.0, 6.0),
    Word("growing", "growth", 0.20, 0.10),
    Word("shrinking", "growth", -0.20, -0.10),
    Word("rarely served", "frequency", -0.25, -0.15),
    Word("clicked often", "ctr", 0.35, 0.20),
    Word("clicked rarely", "ctr", -0.35, -0.20),
)
"""Words by feature; ``monetary``, ``frequency`` and ``ctr`` are beside the median entity (the first and the last as
logs), ``growth`` and ``recency_days`` are what they are."""


def named(centres: Sequence[Mapping[str, float]], before: Sequence[str | None]) -> list[str]:
    """Return a name per segment, all different; ``before`` is the name of the night before, None for a new segment.

    >>> named([{"monetary": 1.0, "recency_days": 0.0, "growth": 0.3, "frequency": 0.0, "ctr": 0.0}], [None])
    ['large, growing']
    """
    names = [_name(centre, said) for centre, said in zip(centres, before, strict=True)]
    return _distinct(names, before)


def _name(centre: Mapping[str, float], before: str | None) -> str:
    said = set() if before is None else set(before.split(" #")[0].split(", "))
    words = [word.word for word in WORDS if word.holds(centre, said=word.word in said)]
    return ", ".join(words) or ORDINARY


def _distinct(names: list[str], before: Sequence[str | None]) -> list[str]:
    """Number segments of one name; those that had a number keep it."""
    kept = {place for place, (name, old) in enumerate(zip(names, before, strict=True)) if old and _plain(old) == name}
    told: dict[int, str] = {place: str(before[place]) for place in sorted(kept)}
    taken = set(told.values())
    for place, name in enumerate(names):
        if place in told:
            continue
        numbered = (name if number == 1 else f"{name} #{number}" for number in itertools.count(1))
        told[place] = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(told[place])
    return [told[place] for place in range(len(names))]


def _plain(name: str) -> str:
    return name.split(" #", maxsplit=1)[0]
