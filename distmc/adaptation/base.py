"""What tunes a kernel: three pure functions, fed with what all chains know together.

``init(state) -> learned`` begins before the first step, ``parameters(learned, step)`` gives the kernel's parameters
for a step, and ``update(learned, step, parameters, before, after, info) -> learned`` learns from it. The last is called
during warm-up only, so that draws come from a kernel with fixed parameters. What is learned is a function of replicated
values: tuning costs no message between workers.
"""

from typing import Any, Protocol

from distmc.types import Array


class Adaptation(Protocol):
    """Tunes a kernel during warm-up."""

    def init(self, state: Any) -> Any:
        """Return what is known before the first step."""

    def parameters(self, learned: Any, step: Array) -> Any:
        """Return the kernel's parameters for a step, counted from the start of the run."""

    def update(self, learned: Any, step: Array, parameters: Any, before: Any, after: Any, info: Any) -> Any:
        """Learn from a step of warm-up."""
