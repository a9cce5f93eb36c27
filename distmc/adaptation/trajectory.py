"""The trajectory length that all chains share, and its jitter.

A criterion says how the log of the length should change; it is ascended by stochastic gradients averaged over chains.
Jitter is one low-discrepancy number for all chains, new in every step: chains stay in lockstep and no trajectory
length can fall into resonance with the target for long.

References
----------
Hoffman, Radul, Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in HMC, algorithm 1.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import optax

from distmc.adaptation.pooling import Pooling
from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric
from distmc.types import Array

_OPTIMISER = optax.adam(learning_rate=0.025, b1=0.0, b2=0.95)
_LOWEST_RATE = 1e-4
# A trajectory of three steps and a rounding error has three steps, not four.
_SLACK = 1e-9


class TrajectoryInfo(Protocol):
    """What a criterion has to know about a step's trajectories; the infos of kernels that have them qualify.

    Acceptance rates and flags are (num_chains,), positions and momenta (num_chains, num_dimensions), momenta in
    whitened coordinates.
    """

    @property
    def acceptance_rate(self) -> Array:
        """Probability of accepting the end."""

    @property
    def is_nonfinite(self) -> Array:
        """Whether the end is not finite."""

    @property
    def proposal(self) -> Array:
        """Position of the end."""

    @property
    def proposal_momentum(self) -> Array:
        """Momentum of the end."""


class Trajectories(NamedTuple):
    """One step's trajectories as a criterion sees them.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
        Where they began.
    info : TrajectoryInfo
        Where they ended. Ends count by their acceptance rate; those that are not finite count nothing.
    metric : Metric
        Whitens both.
    integration_time : float64 scalar
        Step size times number of integration steps.
    weight : float64 array (num_chains,)
        Which chains take part.
    """

    position: Array
    info: TrajectoryInfo
    metric: Metric
    integration_time: Array
    weight: Array


def countable_ends(trajectories: Trajectories) -> tuple[Array, Array, Array]:
    """Return ends, momenta there, and weights (num_chains,); where the weight is 0, start and a momentum of 0."""
    info = trajectories.info
    counts = (info.acceptance_rate > _LOWEST_RATE) & ~info.is_nonfinite
    weight = jnp.where(counts, trajectories.weight * info.acceptance_rate, 0.0)
    # Ends and momenta that do not count may be infinite; zero times infinity is not zero.
    end = jnp.where(counts[:, None], info.proposal, trajectories.position)
    return end, jnp.where(counts[:, None], info.proposal_momentum, 0.0), weight


class Criterion(Protocol):
    """What a good trajectory length makes large."""

    def init(self, num_dimensions: int) -> Any:
        """Return what the criterion knows at first; ``()`` if it has no memory."""

    def gradient(self, known: Any, trajectories: Trajectories, target: Target, pooling: Pooling) -> tuple[Any, Array]:
        """Return what it knows now, and the gradient with respect to the log of the length, a float64 scalar."""


class TrajectoryState(NamedTuple):
    """State of the search for the trajectory length.

    Attributes
    ----------
    log_length : float64 scalar
        Logarithm of the mean integration time, in whitened coordinates; used while adapting.
    log_average : float64 scalar
        Average of the iterates; used when adaptation has ended.
    count : float64 scalar
        Updates so far.
    optimiser : pytree
        State of the stochastic optimiser.
    criterion : pytree
        What the criterion knows.
    """

    log_length: Array
    log_average: Array
    count: Array  # type: ignore[assignment]
    optimiser: optax.OptState
    criterion: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryRule:
    """How the trajectory length is chosen.

    Attributes
    ----------
    length : float
        First guess of the mean integration time in whitened coordinates, or the fixed one.
    criterion : Criterion or None
        What changes it; None keeps it.
    jitter : float
        Relative spread of trajectory lengths.
    max_integration_steps : int
        Upper limit in one trajectory.
    min_length : float
        Lower limit of the mean integration time, at most `length`.
    """

    length: float
    criterion: Criterion | None
    jitter: float
    max_integration_steps: int
    min_length: float = 0.0

    def init(self, num_dimensions: int) -> TrajectoryState:
        """Return the state of a search from the first guess."""
        log_length = jnp.log(jnp.asarray(self.length, jnp.float64))
        known = () if self.criterion is None else self.criterion.init(num_dimensions)
        return TrajectoryState(log_length, log_length, jnp.zeros((), jnp.float64), _OPTIMISER.init(log_length), known)

    def update(
        self, state: TrajectoryState, trajectories: Trajectories, target: Target, pooling: Pooling
    ) -> TrajectoryState:
        """Take one ascent step."""
        if self.criterion is None:
            return state
        known, log_length_grad = self.criterion.gradient(state.criterion, trajectories, target, pooling)
        return ascend(state, log_length_grad, self.min_length)._replace(criterion=known)

    def divide(self, step: Array, length: Array, step_size: Array) -> tuple[Array, Array]:
        """Return number and size of the integration steps of a step's trajectories.

        Parameters
        ----------
        step : integer scalar
            Number of the step in the run; it decides the jitter, so that no state is needed.
        length : float64 scalar
            Mean integration time.
        step_size : float64 scalar
            Integration time of one integration step, as tuned.

        Returns
        -------
        num_integration_steps : int32 scalar
            At least 1.
        step_size : float64 scalar
        """
        count = jnp.round(jittered(step, length, self.jitter) / step_size)
        return self._within_limits(count).astype(jnp.int32), step_size

    def longest_step(self, state: TrajectoryState) -> Array:
        """Return the step size above which a search need not go, a float64 scalar."""
        return jnp.asarray(jnp.inf, jnp.float64)

    def _within_limits(self, count: Array) -> Array:
        return jnp.clip(count, 1.0, float(self.max_integration_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvenTrajectoryRule(TrajectoryRule):
    """For trajectories that end where they should: they are divided evenly, into as few steps as the tuned size allows.

    Where one step may be enough for all of a trajectory it has to have the length that the jitter says: steps of
    one size would always turn by one angle. Longer steps than that are never taken, so that a search for their size
    would not see what they do.
    """

    def divide(self, step: Array, length: Array, step_size: Array) -> tuple[Array, Array]:
        """Return number and size of the integration steps of a step's trajectories, none longer than tuned."""
        wanted = jittered(step, length, self.jitter)
        count = self._within_limits(jnp.ceil((1.0 - _SLACK) * wanted / step_size))
        return count.astype(jnp.int32), jnp.minimum(step_size, wanted / count)

    def longest_step(self, state: TrajectoryState) -> Array:
        """Return the step size above which a search need not go: twice the longest trajectory.

        Twice, since the average that counts in the end remembers how the search began.
        """
        return 2.0 * (1.0 + self.jitter) * jnp.exp(state.log_length)


def ascend(state: TrajectoryState, log_length_grad: Array, min_length: float = 0.0) -> TrajectoryState:
    """Take one ascent step along the gradient of the criterion with respect to the logarithm of the length."""
    ascent, optimiser = _OPTIMISER.update(-log_length_grad, state.optimiser)
    log_length = jnp.maximum(optax.apply_updates(state.log_length, ascent), jnp.log(min_length))
    count = state.count + 1.0
    share = count**-0.5
    log_average = share * log_length + (1.0 - share) * state.log_average
    return TrajectoryState(log_length, log_average, count, optimiser, state.criterion)


def jittered(step: Array, length: Array, jitter: float) -> Array:
    """Return a length, a float64 scalar, multiplied by the number in ``[1 - jitter, 1 + jitter]`` of a step."""
    return length * (1.0 - jitter + 2.0 * jitter * van_der_corput(step))


def van_der_corput(index: Array) -> Array:
    """Return element `index` of the base-2 van der Corput sequence in [0, 1), a float64 scalar.

    References
    ----------
    Halton (1960), the one-dimensional case. doi:10.1007/BF01386213.
    """
    bits = (index.astype(jnp.uint32)[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return jnp.sum(bits * 0.5 ** jnp.arange(1, 33, dtype=jnp.float64), axis=-1)
