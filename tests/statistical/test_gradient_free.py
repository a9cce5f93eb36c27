"""Kernels without gradients: wrong ones are found out; whole runs without a gradient reach known posteriors."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import distmc
from distmc.kernels import rwmh
from distmc.kernels import slice as slice_kernel
from distmc.kernels.base import is_finite
from distmc.testing.cases import KernelCase, step_parameters
from distmc.testing.exactness import require_invariant
from distmc.testing.moments import require_moments
from distmc.testing.targets import BANANA, ExactTarget
from distmc.types import NumpyArray
from distmc.zoo import categorical
from distmc.zoo.answers import Answer

# Exactness, beyond what all kernels are tried on ---------------------------------------------------------------------

GAP = 0.4


def _log_edge_and_gap(x: Any) -> Any:
    is_possible = (x[0] > 0.0) & (jnp.abs(x[1]) > GAP)
    return jnp.where(is_possible, -x[0] - 0.5 * (jnp.abs(x[1]) - GAP) ** 2, -jnp.inf)


EDGE_AND_GAP = ExactTarget(
    name="an edge and a gap",
    num_dimensions=2,
    logdensity=_log_edge_and_gap,
    from_normal=lambda z: np.stack([-stats.norm.logsf(z[:, 0]), z[:, 1] + GAP * np.sign(z[:, 1])], axis=1),
    to_normal=lambda x: np.stack([-stats.norm.ppf(np.exp(-x[:, 0])), x[:, 1] - GAP * np.sign(x[:, 1])], axis=1),
    factor=np.array([0.8, 1.3]),
)
"""Waiting times beside a normal distribution that is torn apart; impossible before the start and in the gap."""


def slice_case(name: str, step_size: float, max_expansions: int) -> KernelCase:
    build = functools.partial(slice_kernel.build_kernel, num_directions=2, max_expansions=max_expansions)
    return KernelCase(name=name, build_kernel=build, parameters=step_parameters(step_size), has_gradient=False)


RWMH = KernelCase(
    name="RWMH",
    build_kernel=functools.partial(rwmh.build_kernel, num_proposals=4),
    parameters=step_parameters(1.0),
    has_gradient=False,
)
# Narrow intervals use up what they may be extended by; wide ones that may not be extended are cut short on one side.
NARROW, WIDE = slice_case("narrow Slice", 0.4, 3), slice_case("wide Slice", 2.5, 0)


@pytest.mark.parametrize("case", [RWMH, NARROW, WIDE], ids=str)
def test_edge_and_gap_are_left_as_they_are(case: KernelCase) -> None:
    require_invariant(case, EDGE_AND_GAP)


def half_the_ratio(state: Any, proposal: Any) -> Any:
    return jnp.exp(0.5 * jnp.minimum(proposal.logdensity - state.logdensity, 0.0))


def accept_whatever_is_finite(tried: Any, height: Any) -> Any:
    return is_finite(tried)


def with_noise(**changes: float) -> Callable[..., Any]:
    """Return a placement of intervals for which some of the random numbers are fixed."""

    def place(noise: Any, *others: Any, right: Any = slice_kernel.place_interval) -> Any:
        fixed = {name: jnp.full_like(getattr(noise, name), value) for name, value in changes.items()}
        return right(noise._replace(**fixed), *others)

    return place


def twice_the_budget(*given: Any, right: Any = slice_kernel.place_interval) -> Any:
    interval = right(*given)
    both = jnp.full_like(interval.left_budget, 3)
    return interval._replace(left_budget=both, right_budget=both)


BUGS: dict[str, tuple[KernelCase, Any, str, Callable[..., Any], ExactTarget]] = {
    "wrong ratio": (RWMH, rwmh, "acceptance_rate", half_the_ratio, BANANA),
    "slice not checked": (NARROW, slice_kernel, "is_in_slice", accept_whatever_is_finite, BANANA),
    "steps out on one side": (NARROW, slice_kernel, "place_interval", with_noise(left_budget=3), BANANA),
    "all steps out on either side": (NARROW, slice_kernel, "place_interval", twice_the_budget, BANANA),
    "interval around its middle": (WIDE, slice_kernel, "place_interval", with_noise(place=0.5), EDGE_AND_GAP),
    "height not random": (WIDE, slice_kernel, "place_interval", with_noise(depth=1.0), BANANA),
}


@pytest.mark.parametrize("bug", BUGS)
def test_wrong_kernels_are_found_out(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, module, name, wrong, target = BUGS[bug]
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError, match="invariant"):
        require_invariant(dataclasses.replace(case, name=bug), target)


# Whole runs reach known posteriors -----------------------------------------------------------------------------------


def rounded_counts(params: dict[str, Any], data: dict[str, Any]) -> Any:
    """Return a Poisson regression's contributions at rates on a grid: their gradient is zero where there is one."""
    rate = jnp.exp(params["level"] + params["trend"] * data["x"])
    rate = 0.5 + jnp.floor(4.0 * rate) / 4.0
    return data["count"] * jnp.log(rate) - rate


def log_probability(rate: Any, count: Any) -> Any:
    return np.asarray(stats.poisson.logpmf(count, rate))


def counts_out_of_jax(params: dict[str, Any], data: dict[str, Any]) -> Any:
    """Return a Poisson regression's contributions from SciPy."""
    rate = jnp.exp(params["level"] + params["trend"] * data["x"])
    result = jax.ShapeDtypeStruct(rate.shape, rate.dtype)
    return jax.pure_callback(log_probability, result, rate, data["count"], vmap_method="expand_dims")


def simulate_counts() -> dict[str, NumpyArray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    return {"x": x, "count": rng.poisson(np.exp(0.5 + 0.5 * x))}


def solve_on_a_grid(log_likelihood: Callable[[NumpyArray, NumpyArray], NumpyArray]) -> dict[str, Answer]:
    """Integrate over level and trend, whose priors are standard normal; takes rates (points, 1) and counts."""
    rows = simulate_counts()
    axis = np.linspace(-1.5, 2.0, 601)
    level, trend = (grid.ravel() for grid in np.meshgrid(axis, axis))
    logdensity = stats.norm.logpdf(level) + stats.norm.logpdf(trend)
    for x, count in zip(rows["x"], rows["count"], strict=True):
        logdensity += log_likelihood(np.exp(level + trend * x), count)
    weight = np.exp(logdensity - np.max(logdensity))
    weight /= np.sum(weight)
    means = {"level": weight @ level, "trend": weight @ trend}
    squares = {"level": weight @ level**2, "trend": weight @ trend**2}
    return {name: Answer(np.asarray(mean), np.sqrt(squares[name] - mean**2)) for name, mean in means.items()}


def _on_grid_of_rates(rate: NumpyArray, count: Any) -> NumpyArray:
    rate = 0.5 + np.floor(4.0 * rate) / 4.0
    return np.asarray(count * np.log(rate) - rate)


@pytest.mark.parametrize(
    ("log_likelihood", "sampler", "exact"),
    [
        (rounded_counts, None, _on_grid_of_rates),
        (rounded_counts, distmc.Slice(), _on_grid_of_rates),
        (counts_out_of_jax, None, lambda rate, count: stats.poisson.logpmf(count, rate)),
    ],
    ids=["rounded, RWMH", "rounded, Slice", "out of JAX, RWMH"],
)
def test_likelihoods_without_gradient(log_likelihood: Any, sampler: Any, exact: Any) -> None:
    priors = {"level": dist.Normal(0.0, 1.0), "trend": dist.Normal(0.0, 1.0)}
    model = distmc.Model(priors, log_likelihood, is_differentiable=False)
    tree = distmc.sample(model, simulate_counts(), sampler=sampler, num_blocks=1, progress=False)
    require_moments(tree, solve_on_a_grid(exact))
    assert not np.any(tree["sample_stats"]["diverging"])


@pytest.mark.parametrize("sampler", [distmc.RWMH(), distmc.Slice()], ids=["RWMH", "Slice"])
def test_simplex_without_its_gradient(sampler: Any) -> None:
    data = categorical.simulate(80)
    tree = distmc.sample(categorical.build_model(), data, sampler=sampler, num_blocks=1, progress=False)
    require_moments(tree, categorical.solve(data))


def test_verdict_on_a_default_run_is_good() -> None:
    scale = np.geomspace(1e-2, 1e2, 10)
    model = distmc.Model(
        {"x": dist.Normal(0.0, scale).to_event(1)}, lambda params, data: 0.0 * data["y"], is_differentiable=False
    )
    tree = distmc.sample(model, {"y": np.zeros(4)}, num_blocks=1, progress=False)
    assert distmc.verdict(tree).level == "good", str(distmc.verdict(tree))
    require_moments(tree, {"x": Answer(np.zeros(10), scale)})
