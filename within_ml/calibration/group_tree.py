"""Nested groups as a tree of numbered nodes: which group a row belongs to, also on rows that come later.

Ids, nulls and unseen groups are settled here; what is estimated for a group is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, ModelFormatError, shown

IntArray = NDArray[np.int64]

ROOT = 0
"""Number of the node that holds all rows."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupTree:
    """The tree of all groups that were seen; a node is a path, so that an id may repeat under another parent.

    ``names`` are the distinct ids by level, as text. Node 0 is the root; the nodes of level k are
    ``starts[k] : starts[k + 1]``, in rising order of ``(parent, place of the id in names[k])``. ``parent`` and
    ``place`` have shape (nodes,), the root's own are 0. A row whose id is null at a level has no group there: the group
    below it, if any, hangs on the nearest one above.

    Examples
    --------
    >>> frame = pd.DataFrame({"account": ["a", "a", "b"], "ad": [1, 2, 1]})
    >>> tree, node = GroupTree.grow(frame, ("account", "ad"))
    >>> node, tree.size
    (array([3, 4, 5]), 6)
    >>> tree.find(pd.DataFrame({"account": ["a", "b", "c"], "ad": [2, 9, 1]}))
    array([4, 2, 0])
    """

    levels: tuple[str, ...]
    names: tuple[NDArray[np.object_], ...]
    starts: IntArray
    parent: IntArray
    place: IntArray

    @classmethod
    def grow(cls, groups: pd.DataFrame | ArrayLike, levels: Sequence[str]) -> tuple[Self, IntArray]:
        """Make the tree of the groups in ``groups`` and the deepest node of each row, shape (n,).

        Raises
        ------
        InputError
            If a level's column is missing or the shape does not fit.
        """
        columns = _columns(groups, levels)
        node = np.zeros(len(columns[0]), dtype=np.int64)
        names, starts = [], [1]
        parents, places = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
        for column in columns:
            codes, distinct = _coded(column)
            there = codes >= 0
            keys, inverse = np.unique(node[there] * max(len(distinct), 1) + codes[there], return_inverse=True)
            node[there] = starts[-1] + inverse
            names.append(distinct)
            starts.append(starts[-1] + keys.size)
            parents.append(keys // max(len(distinct), 1))
            places.append(keys % max(len(distinct), 1))
        tree = cls(tuple(levels), tuple(names), np.array(starts), np.concatenate(parents), np.concatenate(places))
        return tree, node

    @property
    def size(self) -> int:
        """Number of nodes, the root included."""
        return int(self.parent.size)

    def nodes(self, level: int) -> slice:
        """Return the nodes of a level."""
        return slice(int(self.starts[level]), int(self.starts[level + 1]))

    def find(self, groups: pd.DataFrame | ArrayLike) -> IntArray:
        """Return each row's deepest known node, shape (n,): itself, or its nearest known ancestor.

        Raises
        ------
        InputError
            If a level's column is missing or the shape does not fit.
        """
        columns = _columns(groups, self.levels)
        node = np.zeros(len(columns[0]), dtype=np.int64)
        known = np.ones(node.size, dtype=bool)
        for level, column in enumerate(columns):
            codes, distinct = _coded(column)
            there = known & (codes >= 0)
            names, span = self.names[level], self.nodes(level)
            place = pd.Index(names, dtype=object).get_indexer(pd.Index(distinct, dtype=object))[codes[there]]
            keys = self.parent[span] * max(len(names), 1) + self.place[span]
            wanted = node[there] * max(len(names), 1) + place
            at = np.minimum(np.searchsorted(keys, wanted), max(keys.size - 1, 0))
            found = (keys[at] == wanted) & (place >= 0) if keys.size else np.zeros(wanted.size, dtype=bool)
            rows = np.flatnonzero(there)
            node[rows[found]] = span.start + at[found]
            # Below a group that is new there is nothing known.
            known[rows[~found]] = False
        return node

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add to each node's value those of all nodes below it, shape (nodes,)."""
        result = values.copy()
        for level in reversed(range(len(self.levels))):
            span, start = self.nodes(level), int(self.starts[level])
            result[:start] += np.bincount(self.parent[span], weights=result[span], minlength=start)
        return result

    def paths(self) -> pd.DataFrame:
        """Return one row per node but the root: its level, and its path in a column per level (None: no group)."""
        text = np.full((self.size, len(self.levels)), None, dtype=object)
        for level in range(len(self.levels)):
            span = self.nodes(level)
            text[span] = text[self.parent[span]]
            text[span, level] = self.names[level][self.place[span]]
        depth = np.repeat(np.array(self.levels, dtype=object), np.diff(self.starts))
        frame = pd.DataFrame(text[1:], columns=list(self.levels), dtype=object)
        frame.insert(0, "level", depth)
        return frame

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tree as arrays without objects; the ids as one run of UTF-8 bytes per level."""
        arrays: dict[str, NDArray[Any]] = {"starts": self.starts, "parent": self.parent, "place": self.place}
        for level, names in enumerate(self.names):
            encoded = [str(name).encode() for name in names]
            arrays[f"names_{level}"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            arrays[f"lengths_{level}"] = np.array([len(name) for name in encoded], dtype=np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, levels: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises
        ------
        ModelFormatError
            If the arrays do not fit each other.
        """
        names = []
        for level in range(len(levels)):
            text, ends = arrays[f"names_{level}"].tobytes(), np.cumsum(arrays[f"lengths_{level}"]).tolist()
            words = [text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
            names.append(np.array(words, dtype=object))
        tree = cls(tuple(levels), tuple(names), arrays["starts"], arrays["parent"], arrays["place"])
        if tree.starts.shape != (len(levels) + 1,) or not tree.starts[-1] == tree.size == tree.place.size:
            raise ModelFormatError(f"A tree of groups has nodes for each of {shown(levels)}; this one has not.")
        return tree


def _columns(groups: pd.DataFrame | ArrayLike, levels: Sequence[str]) -> list[Any]:
    if isinstance(groups, pd.DataFrame):
        if missing := [level for level in levels if level not in groups.columns]:
            raise InputError(f"groups must have a column for each of hierarchy_levels; it lacks {shown(missing)}.")
        return [groups[level] for level in levels]
    array = np.asarray(groups, dtype=object)
    if array.ndim == 1 and len(levels) == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != len(levels):
        raise InputError(f"groups must be a frame or of shape (n, {len(levels)}), however: shape {array.shape}.")
    return list(array.T)


def _coded(column: Any) -> tuple[IntArray, NDArray[np.object_]]:
    """Number the ids of a column, -1 for null; the number 1 (also 1.0, as a column with nulls has it) is "1"."""
    codes, distinct = pd.factorize(column)
    text = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in distinct.tolist()]
    # The last name is never asked for: it stands where -1 points.
    again, names = pd.factorize(np.array([*text], dtype=object))
    again = np.append(again, -1)
    return again[codes].astype(np.int64), np.asarray(names, dtype=object)
