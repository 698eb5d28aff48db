"""Configuration of a training run: one dataclass, which is also the command line.

>>> TrainConfig(group="dihedral(4)").hidden_channels
32
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from fieldsym.errors import DataError


@dataclass(frozen=True)
class TrainConfig:
    """What to learn, with which operator, and how.

    Parameters
    ----------
    variables : variables of the file, separated by commas; default every field on the grid
    types : what the file does not say: "vector u = uwnd, vwnd; pseudoscalar w = vorticity"
    group : symmetry to enforce: "none", "cyclic(4)", "dihedral(4)", "dihedral(2)", …
    n_modes : odd number of kept frequencies per axis
    hidden_channels : width of the operator, a multiple of the order of the group
    n_layers : number of Fourier layers
    positional_embedding : "grid" gives a plain operator its coordinates (group "none" only)
    history : steps of input
    lead : steps from the latest input to the forecast
    horizon : forecasts in a row that the loss counts, each from the one before
    train : fraction of samples (or of the series, in time) to learn from
    valid : fraction to choose the best epoch by; what is left is the test part
    epochs : passes over the training part
    batch_size : windows per step
    learning_rate : initial rate of Adam, annealed to zero along a cosine
    patience : epochs without a better validation error before training stops
    augment : group whose random elements move each training batch, such as "dihedral(4)"
    seed : of the initial weights, the order of the batches and the augmentation
    accelerator : "auto", "cpu" or "cuda"
    devices : number of devices
    """

    variables: str | None = None
    types: str | None = None
    group: str = "none"
    n_modes: int = 17
    hidden_channels: int = 32
    n_layers: int = 4
    positional_embedding: str | None = None
    history: int = 1
    lead: int = 1
    horizon: int = 1
    train: float = 0.7
    valid: float = 0.15
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    patience: int = 10
    augment: str = "none"
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "patience", "n_layers", "devices"):
            if getattr(self, name) <= 0:
                raise DataError(f"{name} must be positive; got {getattr(self, name)}.")
        if self.history > 1 and self.lead > 1 and self.horizon > 1:
            raise DataError(
                "With a history and a lead of several steps a forecast cannot be fed back; "
                f"got history={self.history}, lead={self.lead}, horizon={self.horizon}. Use "
                "horizon=1, history=1 or lead=1."
            )

    def to_dict(self) -> dict[str, object]:
        """Plain numbers and strings, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> TrainConfig:
        """The configuration of :meth:`to_dict`.

        Raises
        ------
        DataError   if an entry is not known.
        """
        unknown = set(entries) - {f.name for f in fields(cls)}
        if unknown:
            raise DataError(f"Unknown configuration entries {sorted(unknown)}.")
        return cls(**entries)  # type: ignore[arg-type]
