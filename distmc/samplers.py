"""The samplers that a person can choose, with their settings."""

import dataclasses
from typing import Literal, TypeAlias, get_args

from distmc.errors import SpecError
from distmc.ranges import require_choice, require_count, require_number, require_positive

MetricKind: TypeAlias = Literal["auto", "diagonal", "dense", "low_rank"]

# Leaves are counted in 32 bits.
_DEEPEST_TREE = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class HMC:
    """Hamiltonian Monte Carlo with a fixed mean trajectory length, jittered and shared by all chains.

    Attributes
    ----------
    trajectory_length : float
        Mean integration time of a trajectory in whitened coordinates, where a quarter period of a Gaussian
        posterior is pi / 2. A little more lets a draw lie rather on the other side of the middle than the one before:
        means are known sooner, far quantiles sometimes a little later.
    jitter : float
        Each trajectory's length is multiplied by a number in ``[1 - jitter, 1 + jitter]`` from a
        low-discrepancy sequence, the same for all chains. Guards against resonance.
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps in one trajectory.
    """

    trajectory_length: float = 1.8
    jitter: float = 0.5
    target_acceptance_rate: float = 0.8
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "trajectory_length")
        _require_hamiltonian_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChEES:
    """Hamiltonian Monte Carlo whose shared trajectory length is learned by the ChEES criterion; the default.

    The criterion is divided by the square root of the integration time; see `distmc.adaptation.chees`.

    Attributes
    ----------
    min_trajectory_length : float
        Shortest mean integration time, with which the search begins, in whitened coordinates; pi / 2 is a quarter
        period of a Gaussian posterior. A little more lets a draw lie rather on the other side of the middle than the
        one before: means are known sooner, far quantiles sometimes a little later.
    jitter : float
        Each trajectory's length is multiplied by a number in ``[1 - jitter, 1 + jitter]`` from a
        low-discrepancy sequence, the same for all chains.
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps in one trajectory.
    """

    min_trajectory_length: float = 1.8
    jitter: float = 0.5
    target_acceptance_rate: float = 0.8
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "min_trajectory_length")
        _require_hamiltonian_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNAPER:
    """Hamiltonian Monte Carlo whose shared trajectory length is learned along the posterior's widest direction.

    The criterion is the squared change of the squared distance from the mean along the leading principal component,
    divided by the integration time; see `distmc.adaptation.snaper`.

    Attributes
    ----------
    min_trajectory_length : float
        Shortest mean integration time, with which the search begins, in whitened coordinates, as for `ChEES`.
    jitter : float
        Each trajectory's length is multiplied by a number in ``[1 - jitter, 1 + jitter]`` from a
        low-discrepancy sequence, the same for all chains.
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps in one trajectory.
    """

    min_trajectory_length: float = 1.8
    jitter: float = 0.5
    target_acceptance_rate: float = 0.8
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "min_trajectory_length")
        _require_hamiltonian_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NUTS:
    """The No-U-Turn sampler: every chain follows its own trajectory until it turns back.

    In every step chains wait for the one with the longest trajectory. That is a price to pay where the right length
    differs from place to place, as one length for all chains is then too short here and too long there.

    Attributes
    ----------
    max_tree_depth : int
        Most doublings of a trajectory, which then has ``2**max_tree_depth - 1`` integration steps; at most 30.
    target_acceptance_rate : float
        Harmonic mean over chains of the acceptance rate, itself a mean over a trajectory, that the step size is tuned
        for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    """

    max_tree_depth: int = 10
    target_acceptance_rate: float = 0.8
    metric: MetricKind = "auto"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_count(self, "max_tree_depth", minimum=1)
        if self.max_tree_depth > _DEEPEST_TREE:
            raise SpecError(
                f"`max_tree_depth={self.max_tree_depth}` must be at most {_DEEPEST_TREE}: a trajectory of depth "
                f"{_DEEPEST_TREE} has a billion integration steps."
            )
        _require_tuning_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MALA:
    """The Metropolis-adjusted Langevin algorithm: one evaluation a step, for all chains.

    Draws follow one another closely, so that many of them are needed.

    Attributes
    ----------
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    """

    target_acceptance_rate: float = 0.574
    metric: MetricKind = "auto"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _require_tuning_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEADS:
    """Generalised Hamiltonian Monte Carlo: momenta that last, and a decision after every single gradient.

    How long momenta last, and how far draws are apart, follows from the width of the posterior (maximum-eigenvalue
    adaptation of damping); see `distmc.adaptation.meads`.

    Attributes
    ----------
    spacing : float
        Integration time from one draw to the next, in units of the time for which momenta last. Less gives more and
        more similar draws for the same number of gradients.
    target_acceptance_rate : float
        Harmonic mean over chains of the acceptance rate of an integration step, that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps from one draw to the next.
    """

    spacing: float = 2.0
    target_acceptance_rate: float = 0.8
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "spacing")
        _require_tuning_ranges(self)
        require_count(self, "max_integration_steps", minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RWMH:
    """Random-walk Metropolis with Gaussian noise in whitened coordinates; needs no gradient.

    Attributes
    ----------
    num_proposals : int or None
        Proposals in one step. None: four times as many as there are dimensions, at least 16 and at most 256.
    target_acceptance_rate : float
        Mean acceptance rate over chains that the size of the noise is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    """

    num_proposals: int | None = None
    target_acceptance_rate: float = 0.234
    metric: MetricKind = "auto"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.num_proposals is not None:
            require_count(self, "num_proposals", minimum=1)
        _require_tuning_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Slice sampling along random directions in whitened coordinates; needs no gradient.

    Attributes
    ----------
    num_directions : int or None
        Directions along which one step moves, orthogonal to one another. None: as many as there are dimensions, at
        least 4 and at most 64.
    max_expansions : int
        Most times that one interval is extended by its width, both sides together; 0 never extends it.
    target_acceptance_rate : float
        Share of the points drawn within intervals that are to be accepted, which the width of intervals is tuned for.
        Higher: narrower intervals.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    """

    num_directions: int | None = None
    max_expansions: int = 3
    target_acceptance_rate: float = 0.5
    metric: MetricKind = "auto"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.num_directions is not None:
            require_count(self, "num_directions", minimum=1)
        require_count(self, "max_expansions", minimum=0)
        _require_tuning_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAMS:
    """Metropolis-adjusted microcanonical sampler: trajectories of constant speed, turned by the gradient.

    In place of a momentum each step draws a direction. For the same acceptance its integration steps may be longer than
    leapfrog steps. A chain that starts very far out comes nearer at constant speed, where with a
    momentum it would fall; `LAPS` starts better there.

    Attributes
    ----------
    trajectory_length : float
        Mean integration time of a trajectory. Speed and scales are such that a quarter period of a Gaussian
        posterior is near pi / 2 in every dimension, as for `HMC`.
    jitter : float
        Each trajectory's length is multiplied by a number in ``[1 - jitter, 1 + jitter]`` from a
        low-discrepancy sequence, the same for all chains. Guards against resonance.
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps in one trajectory.
    """

    trajectory_length: float = 1.5707963267948966
    jitter: float = 0.5
    target_acceptance_rate: float = 0.9
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "trajectory_length")
        _require_hamiltonian_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LAPS:
    """Late-adjusted parallel sampler: the cheapest warm-up, for many chains.

    For the first four fifths of warm-up a step is one gradient and is not adjusted. What the chains sample then is only
    near the posterior; it serves to bring them there and to learn its scales. In the last fifth of warm-up, and for
    all draws, steps are those of `MAMS`: draws are as exact as those of any other sampler here.

    What unadjusted steps need is estimated from all chains after every step, so it takes many chains: 64 or more,
    and not fewer than 16. With hundreds of chains a few tens of draws of each may be enough. All chains move at one
    speed, so that those that start thousands of posterior scales away may not arrive; `distmc.optimize` finds a start.

    Attributes
    ----------
    trajectory_length : float
        Mean integration time of an adjusted trajectory, as for `MAMS`.
    jitter : float
        Each adjusted trajectory's length is multiplied by a number in ``[1 - jitter, 1 + jitter]`` from a
        low-discrepancy sequence, the same for all chains. Guards against resonance.
    target_acceptance_rate : float
        Harmonic mean of the acceptance rate over chains that the adjusted step size is tuned for.
    metric : {"auto", "diagonal", "dense", "low_rank"}
        Form of the pooled metric. `auto` is dense where the pooled warm-up draws can carry it, else of low rank plus
        diagonal, and in more than 5,000 dimensions diagonal.
    max_integration_steps : int
        Upper limit of integration steps in one trajectory.
    """

    trajectory_length: float = 1.5707963267948966
    jitter: float = 0.5
    target_acceptance_rate: float = 0.9
    metric: MetricKind = "auto"
    max_integration_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require_positive(self, "trajectory_length")
        _require_hamiltonian_ranges(self)


Sampler: TypeAlias = HMC | ChEES | SNAPER | NUTS | MALA | MEADS | MAMS | LAPS | RWMH | Slice
SAMPLERS: dict[str, type[Sampler]] = {
    "HMC": HMC,
    "ChEES": ChEES,
    "SNAPER": SNAPER,
    "NUTS": NUTS,
    "MALA": MALA,
    "MEADS": MEADS,
    "MAMS": MAMS,
    "LAPS": LAPS,
    "RWMH": RWMH,
    "Slice": Slice,
}
WITHOUT_GRADIENT: tuple[type[Sampler], ...] = (RWMH, Slice)
"""Samplers that need no gradient of the log-likelihood."""


def sampler_named(name: str, **settings: object) -> Sampler:
    """Return a sampler by its name in any case, for instance ``sampler_named("chees", jitter=0.3)``.

    Raises
    ------
    SpecError
        If there is no such sampler, or no such setting of it.
    """
    by_name = {known.lower(): sampler for known, sampler in SAMPLERS.items()}
    if name.lower() not in by_name:
        raise SpecError(
            f"`sampler={name!r}` is not the name of a sampler; choose one of {', '.join(map(repr, by_name))}."
        )
    sampler = by_name[name.lower()]
    known = [field.name for field in dataclasses.fields(sampler)]
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        raise SpecError(f"{sampler.__name__} has no setting `{unknown[0]}`; it has {', '.join(known)}.")
    return sampler(**settings)  # type: ignore[arg-type]


def _require_hamiltonian_ranges(sampler: HMC | ChEES | SNAPER | MAMS | LAPS) -> None:
    require_number(sampler, "jitter")
    if not 0.0 <= sampler.jitter < 1.0:
        raise SpecError(f"`jitter={sampler.jitter!r}` must be at least 0 and below 1.")
    _require_tuning_ranges(sampler)
    require_count(sampler, "max_integration_steps", minimum=1)


def _require_tuning_ranges(sampler: Sampler) -> None:
    require_number(sampler, "target_acceptance_rate")
    if not 0.0 < sampler.target_acceptance_rate < 1.0:
        raise SpecError(f"`target_acceptance_rate={sampler.target_acceptance_rate!r}` must lie between 0 and 1.")
    require_choice(sampler, "metric", get_args(MetricKind))
