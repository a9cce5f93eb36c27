"""No tuning: the same parameters in every step."""

import dataclasses
from typing import Any

from distmc.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """An `Adaptation` that learns nothing.

    Attributes
    ----------
    values : pytree
        The kernel's parameters.
    """

    values: Any

    def init(self, state: Any) -> tuple[()]:
        """Return nothing."""
        return ()

    def parameters(self, learned: tuple[()], step: Array) -> Any:
        """Return the kernel's parameters."""
        return self.values

    def update(self, learned: tuple[()], step: Array, parameters: Any, before: Any, after: Any, info: Any) -> tuple[()]:
        """Learn nothing."""
        return learned
