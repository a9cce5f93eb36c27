"""What a person asks for: frozen, keyword-only values, validated once, saved with the run.

Nothing below this module reads the environment or a global; whatever steers a run stands in its `RunSpec`
(which draws) or its placement, `Local` or `Ray` (where they are computed, which never changes a draw).
"""

import dataclasses
import itertools
import json
from typing import Any, Literal, TypeAlias, get_args

from distmc.climbs import Climb
from distmc.errors import SpecError
from distmc.ranges import require_choice, require_count, require_flag, require_positive
from distmc.samplers import SAMPLERS, WITHOUT_GRADIENT, ChEES, Sampler

Precision: TypeAlias = Literal["mixed", "float64"]
Reduction: TypeAlias = Literal["ordered", "fast"]
_LARGEST_SEED = (1 << 63) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps of warm-up by purpose.

    Attributes
    ----------
    initial_buffer : int
        Steps before the first window, in which chains travel to where the posterior is.
    windows : tuple of int
        Steps of each window. At its end the metric is estimated from its steps alone, and the search for step size
        and trajectory length starts afresh. None: the metric is never estimated.
    final_buffer : int
        Steps after the last window, in which step size and trajectory length settle.
    """

    initial_buffer: int
    windows: tuple[int, ...]
    final_buffer: int

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_count(self, "initial_buffer", minimum=0)
        if not isinstance(self.windows, list | tuple) or not all(_is_count(window) for window in self.windows):
            raise SpecError(f"`windows={self.windows!r}` must be whole numbers of at least 1, such as `(20, 40, 80)`.")
        object.__setattr__(self, "windows", tuple(self.windows))
        why = "step size and trajectory length have to settle after the last window"
        require_count(self, "final_buffer", minimum=1 if self.windows else 0, why=why)

    @property
    def num_warmup(self) -> int:
        """Steps of the whole warm-up."""
        return self.initial_buffer + sum(self.windows) + self.final_buffer

    @property
    def window_ends(self) -> tuple[int, ...]:
        """Number of the last step of each window."""
        return tuple(self.initial_buffer - 1 + end for end in itertools.accumulate(self.windows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides the draws, apart from model, data and starting values.

    Attributes
    ----------
    sampler : one of `SAMPLERS`
        The algorithm and its settings.
    num_chains : int
        Chains that run in lockstep.
    num_warmup, num_draws : int
        Steps per chain that tune the sampler, and draws per chain that are kept.
    schedule : Schedule or None
        What the steps of warm-up are for; has `num_warmup` of them. None: chosen from their number alone.
    thin : int
        Steps for each kept draw, of which the last one is kept; warm-up is kept whole.
    seed : int
        Seed of every random number of the run.
    precision : {"mixed", "float64"}
        `mixed` evaluates rows in float32 and adds them in float64; `float64` does all of it in double. See
        `precision_in_force`.
    num_blocks : int or None
        Fixed number of logical blocks that the rows are cut into, a power of two, at least the largest number
        of workers the run should ever use. None: chosen from the data alone.
    keep_unconstrained : bool
        Keep the draws as positions too, in the group `unconstrained_posterior`.
    reduction : {"ordered", "fast"}
        `ordered` adds blocks along one fixed tree, so that draws do not depend on the number of workers;
        `fast` leaves the order to the library. For comparison in benchmarks.
    """

    sampler: Sampler | Climb = dataclasses.field(default_factory=ChEES)
    num_chains: int = 32
    num_warmup: int = 500
    num_draws: int = 500
    schedule: Schedule | None = None
    thin: int = 1
    seed: int = 0
    precision: Precision = "mixed"
    num_blocks: int | None = None
    keep_unconstrained: bool = False
    reduction: Reduction = "ordered"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not isinstance(self.sampler, Sampler | Climb):
            raise SpecError(
                f"`sampler={self.sampler!r}` is not a sampler; give one of "
                + ", ".join(f"distmc.{name}()" for name in SAMPLERS)
            )
        if isinstance(self.sampler, Climb):
            require_count(self, "num_chains", minimum=1)
        else:
            require_count(self, "num_chains", minimum=2, why="tuning and R-hat compare chains")
        require_count(self, "num_warmup", minimum=0)
        require_count(self, "num_draws", minimum=1)
        self._require_schedule()
        require_count(self, "thin", minimum=1)
        require_count(self, "seed", minimum=0)
        if self.seed > _LARGEST_SEED:
            raise SpecError(f"`seed={self.seed}` must be below 2**63, which is all that the random generator takes.")
        require_flag(self, "keep_unconstrained")
        require_choice(self, "precision", get_args(Precision))
        require_choice(self, "reduction", get_args(Reduction))
        if self.num_blocks is not None:
            require_count(self, "num_blocks", minimum=1)
            if self.num_blocks & (self.num_blocks - 1):
                below = 1 << (self.num_blocks.bit_length() - 1)
                raise SpecError(
                    f"`num_blocks={self.num_blocks}` is not a power of two, which the fixed summation tree needs; "
                    f"choose {below} or {2 * below}."
                )

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, warm-up included."""
        return self.num_warmup + self.thin * self.num_draws

    @property
    def precision_in_force(self) -> Precision:
        """Precision in which rows are evaluated.

        `mixed` rounds the parameters that rows see to float32 and makes up for it with the gradient. A sampler
        without gradients cannot, so its rows are evaluated in float64 whatever `precision` says.
        """
        return "float64" if isinstance(self.sampler, WITHOUT_GRADIENT) else self.precision

    def _require_schedule(self) -> None:
        if self.schedule is None:
            return
        if not isinstance(self.schedule, Schedule):
            raise SpecError(f"`schedule={self.schedule!r}` is not a `distmc.Schedule(...)`.")
        if self.schedule.num_warmup != self.num_warmup:
            raise SpecError(
                f"The parts of `schedule={self.schedule!r}` add up to {self.schedule.num_warmup} steps, not to "
                f"`num_warmup={self.num_warmup}`; give `num_warmup={self.schedule.num_warmup}` with it."
            )

    def to_json(self) -> str:
        """Return the spec as JSON text that `from_json` turns back into an equal spec."""
        fields = dataclasses.asdict(self)
        fields["sampler"] = {"name": type(self.sampler).__name__, **fields["sampler"]}
        return json.dumps(fields, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RunSpec":
        """Read back what `to_json` wrote.

        Raises
        ------
        SpecError
            If the text is not a spec of this version.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            settings = fields.pop("sampler")
            sampler = SAMPLERS[settings.pop("name")](**settings)
            schedule = fields.pop("schedule", None)
            return cls(sampler=sampler, schedule=None if schedule is None else Schedule(**schedule), **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"This text is not a run specification of this version of distmc: {error!r}.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local:
    """Run in this process, on this machine's first device, without Ray."""

    @property
    def fewest_workers(self) -> int:
        """Return 1: this process."""
        return 1

    @property
    def most_workers(self) -> int:
        """Return 1: this process."""
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ray:
    """Run on a Ray cluster, one actor a device.

    Attributes
    ----------
    num_workers : int or tuple of int
        Actors that share the rows; `(fewest, most)` lets the run begin with, or shrink to, the fewest, and use up to
        the most when the cluster has room for them. Draws are the same with any number.
    num_cpus_per_worker : int
        Cores reserved for, and used by, each worker.
    num_gpus_per_worker : int
        0 or 1: a worker owns one device.
    address : str or None
        Address of a running cluster, `"auto"` to find one, or `"local"` to start one on this machine.
        None: the cluster this process is already connected to or was submitted to, else a local one.
    start_timeout_seconds : float
        Longest wait for the cluster to place the fewest workers, also after some were lost.
    hang_timeout_seconds : float
        Silence in one chunk after which a worker is given up and replaced.
    """

    num_workers: int | tuple[int, int] = 2
    num_cpus_per_worker: int = 1
    num_gpus_per_worker: int = 0
    address: str | None = None
    start_timeout_seconds: float = 120.0
    hang_timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        self._require_workers()
        require_count(self, "num_cpus_per_worker", minimum=1)
        require_count(self, "num_gpus_per_worker", minimum=0)
        if self.num_gpus_per_worker > 1:
            raise SpecError(
                f"`num_gpus_per_worker={self.num_gpus_per_worker}`: a worker owns one device; "
                "ask for more workers instead."
            )
        if self.address is not None and not isinstance(self.address, str):
            raise SpecError(f'`address={self.address!r}` must be text: "host:port", "auto" or "local".')
        require_positive(self, "start_timeout_seconds")
        require_positive(self, "hang_timeout_seconds")

    @property
    def fewest_workers(self) -> int:
        """Return the workers without which the run waits."""
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def most_workers(self) -> int:
        """Return the workers that the run uses where there is room for them."""
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    def _require_workers(self) -> None:
        given: Any = self.num_workers
        if isinstance(given, list):
            given = tuple(given)
            object.__setattr__(self, "num_workers", given)
        if not isinstance(given, tuple):
            require_count(self, "num_workers", minimum=1)
        elif len(given) != 2 or not all(map(_is_count, given)) or given[0] > given[1]:
            raise SpecError(
                f"`num_workers={given!r}` must be a number of workers, or `(fewest, most)` with both at least 1."
            )


Placement: TypeAlias = Local | Ray


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
