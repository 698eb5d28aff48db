"""The five things that can be wrong, each a ``ValueError``.

Every message says what was expected, what came, why, and what to do about it.
"""

from collections.abc import Callable
from typing import TypeVar

__all__ = ["BundleError", "DataError", "GridError", "GroupError", "RepresentationError"]


class GroupError(ValueError):
    """A group (or one of its elements) does not act on the base or grid it met."""


class RepresentationError(ValueError):
    """A representation cannot be parsed, or does not fit the dimension or group."""


class BundleError(ValueError):
    """A tensor is not a section of the bundle it was declared to be."""


class GridError(ValueError):
    """A grid, axis or mode set is irregular, too small or not symmetric."""


class DataError(ValueError):
    """A file, variable, split or checkpoint cannot be used as it is."""


T = TypeVar("T")


def requirer(kind: type[T], error: type[ValueError], example: str) -> Callable[[object, str], T]:
    """A function of a value and who needs it: the value, unless it is of another type.

    Raises
    ------
    ``error``, from the function, with what is needed and what came.

    Examples
    --------
    >>> require_count = requirer(int, GridError, "a whole number, such as 3")
    >>> require_count(4, "A grid")
    4
    >>> require_count("4", "A grid")
    Traceback (most recent call last):
    fieldsym.errors.GridError: A grid needs a whole number, such as 3; got '4'.
    """

    def require(value: object, who: str) -> T:
        if isinstance(value, kind):
            return value
        raise error(f"{who} needs {example}; got {value!r}.")

    return require
