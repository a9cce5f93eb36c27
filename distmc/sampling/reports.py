"""What a worker tells about its work: small facts for the control plane, arrays for the run directory."""

import dataclasses

from distmc.types import NumpyArray, Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileReport:
    """What compiling found out.

    Attributes
    ----------
    rank : int
        Rank of the worker.
    seconds : float
        Time spent compiling.
    device : str
        Kind of the device that the worker owns.
    """

    rank: int
    seconds: float
    device: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkReport:
    """Facts about one chunk, the same on every rank except `rank` and `seconds`.

    Attributes
    ----------
    rank : int
        Rank of the worker that reports.
    chunk : int
        Number of the chunk; 0 is the start, which holds no draws.
    phase : {"start", "warmup", "draws"}
        What the chunk's steps were for; a chunk never spans two phases.
    step : int
        Steps done since the start of the run, warm-up included, when the chunk ended.
    num_steps : int
        Steps in this chunk.
    digest : str
        Hash of the replicated state and of the chunk's draws; ranks that disagree have drifted. Empty where a worker
        is alone.
    seconds : float
        Wall time of the compiled call.
    step_size : float
        Mean over the chunk's steps, and over chains where they differ; 0 where there was none, as for the two below.
    num_integration_steps : float
        Mean over the chunk's steps of the evaluations of the target; where chains differ, of the one with most.
    acceptance_rate : float
        Mean over steps and chains.
    num_divergent, num_nonfinite : int
        Transitions in the chunk that diverged, and those whose proposal had no finite log-density.
    """

    rank: int
    chunk: int
    phase: Phase
    step: int
    num_steps: int
    digest: str
    seconds: float
    step_size: float
    num_integration_steps: float
    acceptance_rate: float
    num_divergent: int
    num_nonfinite: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkArrays:
    """Draws and state of one chunk on the host, identical on every rank.

    With thinning a chunk has fewer draws than steps, and may have none.

    Attributes
    ----------
    chunk : int
        Number of the chunk.
    phase : {"start", "warmup", "draws"}
        What the steps were for.
    first_step : int
        Steps done before the chunk.
    draws : dict of float64 array, each (num_chains, num_kept, *event)
        Constrained parameters by name.
    unconstrained : float64 array (num_chains, num_kept, num_dimensions)
        The same draws as positions.
    stats : dict of array, each (num_chains, num_kept)
        `logdensity`, `step_size`, and those of `distmc.kernels.base.STATISTICS` that the kernel has.
    state : dict of array
        All that a resumed run needs, by name.
    """

    chunk: int
    phase: Phase
    first_step: int
    draws: dict[str, NumpyArray]
    unconstrained: NumpyArray
    stats: dict[str, NumpyArray]
    state: dict[str, NumpyArray]
