"""What is run like a sampler but draws nothing: the climb to a mode, and the evaluation of given points."""

import dataclasses
from typing import TypeAlias

from distmc.ranges import require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Limited-memory BFGS from every start in lockstep; see `distmc.kernels.lbfgs`.

    Attributes
    ----------
    tolerance : float
        Expected gain in nats below which a start has arrived.
    """

    tolerance: float

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "tolerance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """Log-density and gradient at the starting positions."""


Climb: TypeAlias = LBFGS | Points
