"""Modules with tables: constants that are computed in float64 and follow the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn


class Tabulated(nn.Module, ABC):
    """A module whose constants are tabulated anew whenever it is cast or moved.

    Cast to single precision and back they would stay rounded, and with them the symmetry.
    The buffer ``zero`` has the dtype and device of the parameters, also where there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @abstractmethod
    def tabulate(self) -> None:
        """Compute every table and store it with :meth:`store`."""

    def store(self, name: str, table: np.ndarray) -> None:
        """Register a table as a buffer in the dtype and on the device of the parameters."""
        values = torch.from_numpy(np.ascontiguousarray(table)).to(self.get_buffer("zero"))
        self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        module = super()._apply(fn, recurse)
        self.tabulate()
        return module
