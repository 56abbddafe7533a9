"""The errors that a user of WITHIN can meet.

Each message is one sentence or two: what was required, what came, what to do. Errors of libraries are translated at
the boundary where they appear; nothing here catches anything.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_EXAMPLES = 10


class WithinError(Exception):
    """Base of all errors raised on purpose by WITHIN; catch it to tell bad input from a defect."""


class SettingsError(WithinError):
    """A setting is missing or contradicts another."""


class InputError(WithinError, ValueError):
    """An argument has the wrong shape, type or range."""


class NotFittedError(WithinError, ValueError):
    """A model is asked to predict before it was fitted or loaded."""


class SourceError(WithinError):
    """A landing file or its mapping is not what was promised."""


class ContractError(WithinError):
    """Rows or columns break the contract of a lake table and the partition is blocked."""


class LakeError(WithinError):
    """A lake table or partition is missing, or a write could not be committed."""


class MissingPartitionsError(LakeError):
    """A reader of a window needs days that the table's calendar expects and that are not there."""


class DatabaseError(WithinError):
    """Postgres is not reachable, or not migrated."""


class ModelFormatError(WithinError):
    """A saved model folder is incomplete, altered, or of another type or version."""


class RegistryError(WithinError):
    """A registered model, version or alias does not exist, or the registry refused the change."""


class PromotionRefusedError(RegistryError):
    """The promotion gate said no; the refusal is in the ledger."""


class UnknownModelError(RegistryError, KeyError):
    """A name that the registry's live view does not have; also a `KeyError`, as mappings promise."""

    __str__ = Exception.__str__


def shown(examples: Iterable[object]) -> str:
    """Join at most ten examples for a message.

    >>> shown(["a", "b"])
    "'a', 'b'"
    >>> shown(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (2 more)'
    """
    items = [repr(example) for example in examples]
    more = f", … ({len(items) - MAX_EXAMPLES} more)" if len(items) > MAX_EXAMPLES else ""
    return ", ".join(items[:MAX_EXAMPLES]) + more
