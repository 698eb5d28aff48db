"""The five things that can be wrong, each a ``ValueError``.

Every message says what was expected, what came, why, and what to do about it.
"""

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
