"""What the program of every sampler keeps, tuning included: bits, messages, and rest after warm-up.

Each check takes a `SamplerCase` and raises an `AssertionError` that says in words what is broken; `SAMPLER_CHECKS` has
all of them. Every sampler in `distmc.samplers` takes part by being there. The programs are those that workers run,
over a small logistic regression in double precision, on devices of this process; see `distmc.testing.virtual`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.model.brief import brief
from distmc.model.model import Model
from distmc.parallel.mesh import to_host
from distmc.samplers import SAMPLERS, ChEES, Sampler
from distmc.sampling.program import Trace, build_program
from distmc.sampling.rng import seed_key
from distmc.sampling.state import RunState, from_arrays, to_arrays
from distmc.spec import RunSpec
from distmc.testing.invariance import require_identical
from distmc.testing.obstacles import ISLAND, broken_far_out, target_of
from distmc.testing.virtual import VirtualRun, compile_run, count_collectives
from distmc.types import ConstrainedParameters, NumpyArray

NUM_WORKERS = (1, 2, 3, 4)
NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = 8, 40, 20
_NUM_STEPS = NUM_WARMUP + NUM_DRAWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerCase:
    """A sampler to be proved.

    Attributes
    ----------
    sampler : Sampler
        With the settings to run with.
    num_places : int
        Places in the text of a step at which the target is evaluated; each costs code and compile time.
    correlation : float
        Between the two regressors. The more, the more a metric that knows of correlations differs from one that does
        not.
    """

    sampler: Sampler
    num_places: int = 1
    correlation: float = 0.0

    def __str__(self) -> str:
        """Return the sampler's name."""
        return type(self.sampler).__name__


SAMPLER_CASES = tuple(SamplerCase(sampler=sampler()) for sampler in SAMPLERS.values())
"""All samplers of distmc with their default settings."""

LOW_RANK_CASE = SamplerCase(sampler=ChEES(metric="low_rank"), correlation=0.8)
"""The default sampler with the form of metric that takes more arithmetic than the others, and data that call for it."""


def check_workers(case: SamplerCase) -> None:
    """Require the same warm-up, draws and state on one, two, three and four workers, to the bit."""
    (alone_state, alone), *others = (_run(case, num_workers) for num_workers in NUM_WORKERS)
    _require_motion(case, alone)
    for num_workers, (state, trace) in zip(NUM_WORKERS[1:], others, strict=True):
        names = ("one worker", f"{num_workers} workers")
        try:
            require_identical(_as_draws(alone), _as_draws(trace), names)
        except AssertionError as difference:
            raise AssertionError(f"{case}: {difference}") from None
        for name in _differing(alone_state, state):
            raise AssertionError(f"{case}: `{name}` of the state differs between {' and '.join(names)}.")


def check_messages(case: SamplerCase) -> None:
    """Require one reduction for each evaluation of the target, inside the loop over steps, and nothing else."""
    for num_workers in NUM_WORKERS:
        texts = _compiled(case, num_workers).texts()
        hops = math.ceil(math.log2(num_workers))
        for name, num_places in (("start", 1), ("advance", case.num_places)):
            expected = {"collective-permute": hops * num_places} if hops else {}
            found = count_collectives(texts[name])
            words = f"`{name}` on {num_workers} workers has the collectives {found} in its text, not {expected}"
            _require(case, found == expected, words)
            outside = count_collectives(texts[name].partition("\nENTRY ")[2])
            words = f"`advance` on {num_workers} workers has {outside} outside its loop over steps"
            _require(case, name == "start" or not outside, words)


def check_rest_after_warmup(case: SamplerCase) -> None:
    """Require that what has been learned does not change any more when warm-up has ended, and is what draws use."""
    run = _compiled(case, 1)
    state, _ = run.advance(_data(case), run.start(_data(case), _positions()), NUM_WARMUP)
    learned = to_host(state)
    state, trace = run.advance(_data(case), state, NUM_DRAWS)
    for name in _differing(learned.warmup, to_host(state).warmup):
        raise AssertionError(f"{case}: `{name}` of what was learned changes after warm-up.")
    sizes, expected = trace.statistics["step_size"], _step_sizes(case, learned)
    is_same = np.allclose(sizes, expected, rtol=1e-12, atol=0.0)
    _require(case, is_same, f"step sizes after warm-up are {sizes}, not {expected}, as was learned")


def check_calls(case: SamplerCase) -> None:
    """Require that a run which is cut into calls, saved and read back between them, is the same to the bit."""
    run, (whole_state, whole) = _compiled(case, 1), _run(case, 1)
    state, pieces = run.start(_data(case), _positions()), []
    for num_steps in (1, 24, _NUM_STEPS - 25):
        state, trace = run.advance(_data(case), from_arrays(to_arrays(to_host(state)), run.program.state), num_steps)
        pieces.append(trace)
    cut = to_host(state), jax.tree.map(lambda *kept: np.concatenate(kept), *pieces)
    for name in _differing((whole_state, whole), cut):
        raise AssertionError(f"{case}: `{name}` differs when the run is cut into three calls.")


def check_broken_chain(case: SamplerCase) -> None:
    """Require that a chain which has only broken proposals spoils neither what is learned nor other chains."""
    position = _positions()
    position[2] = ISLAND
    spec = _spec(case)
    with jax.enable_x64(True):
        program = build_program(spec, target_of(broken_far_out), position.shape[1])
        run = brief(lambda position: program.advance(seed_key(0), program.start(position), jnp.int32(_NUM_STEPS)))
        state, trace = jax.device_get(run(position))
    for name, leaf in to_arrays(state).items():
        is_good = leaf.dtype.kind != "f" or np.isfinite(leaf).all()
        _require(case, bool(is_good), f"`{name}` becomes {leaf} beside a chain whose proposals are not finite")
    with jax.enable_x64(True):
        visited = jax.device_get(broken_far_out(trace.position[:_NUM_STEPS, 2])[0])
    _require(case, bool(np.isfinite(visited).all()), "a chain moves to where the density is not finite")
    moves = np.any(trace.position[1:_NUM_STEPS] != trace.position[: _NUM_STEPS - 1], axis=2).mean(axis=0)
    others = np.delete(moves, 2)
    words = f"beside a chain whose proposals are not finite, others move in a share of {others} of their steps"
    _require(case, bool(np.all(others > 0.1)), words)


SAMPLER_CHECKS: tuple[Callable[[SamplerCase], None], ...] = (
    check_workers,
    check_messages,
    check_rest_after_warmup,
    check_calls,
    check_broken_chain,
)
"""All checks of a sampler."""


def _step_sizes(case: SamplerCase, learned: RunState) -> NumpyArray:
    """Return the step sizes of all draws by what was learned at the end of warm-up; trajectories may divide them."""
    with jax.enable_x64(True):
        program = build_program(_spec(case), target_of(broken_far_out), learned.kernel.position.shape[1])
        steps = NUM_WARMUP + np.arange(NUM_DRAWS, dtype=np.int32)
        parameters = program.algorithm.adaptation.parameters
        return np.asarray(brief(jax.vmap(lambda step: parameters(learned.warmup, step).step_size))(steps))


# The run --------------------------------------------------------------------------------------------------------------


def _log_likelihood(params: ConstrainedParameters, data: dict[str, Any]) -> Any:
    return dist.Bernoulli(logits=params["intercept"] + data["x"] @ params["slope"]).log_prob(data["y"])


_PRIORS = {"intercept": dist.Normal(0.0, 2.0), "slope": dist.Normal(0.0, 1.0).expand([2]).to_event(1)}


@functools.cache
def _model() -> Model:
    return Model(_PRIORS, _log_likelihood)


@functools.lru_cache(maxsize=2)
def _data(case: SamplerCase) -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    x[:, 1] = case.correlation * x[:, 0] + np.sqrt(1.0 - case.correlation**2) * x[:, 1]
    return Data(rows={"x": x, "y": rng.random(60) < 1.0 / (1.0 + np.exp(-x @ [1.0, -1.0]))})


def _positions() -> NumpyArray:
    return np.random.default_rng(1).normal(size=(NUM_CHAINS, 3))


def _spec(case: SamplerCase) -> RunSpec:
    # Few rows of single precision would be added in double precision without rounding, in whatever order.
    return RunSpec(
        sampler=case.sampler,
        num_chains=NUM_CHAINS,
        num_warmup=NUM_WARMUP,
        num_draws=NUM_DRAWS,
        num_blocks=8,
        precision="float64",
    )


@functools.lru_cache(maxsize=2 * len(NUM_WORKERS))
def _compiled(case: SamplerCase, num_workers: int) -> VirtualRun:
    return compile_run(_spec(case), _model(), _data(case), num_workers)


@functools.lru_cache(maxsize=2 * len(NUM_WORKERS))
def _run(case: SamplerCase, num_workers: int) -> tuple[RunState, Trace]:
    """Return the state and the trace of all steps, on the host."""
    run = _compiled(case, num_workers)
    state, trace = run.advance(_data(case), run.start(_data(case), _positions()), _NUM_STEPS)
    return to_host(state), trace


# Requirements ---------------------------------------------------------------------------------------------------------


def _as_draws(trace: Trace) -> dict[str, NumpyArray]:
    """Return what was kept as (chain, step, ...), warm-up and draws apart."""
    kept: dict[str, Any] = {"position": trace.position, "logdensity": trace.logdensity}
    for name, values in trace.statistics.items():
        kept[name] = np.broadcast_to(values.reshape(len(values), -1), trace.logdensity.shape)
    swapped = {name: np.swapaxes(values, 0, 1) for name, values in kept.items()}
    warmup = {f"warmup/{name}": values[:, :NUM_WARMUP] for name, values in swapped.items()}
    return warmup | {name: values[:, NUM_WARMUP:] for name, values in swapped.items()}


def _differing(left: Any, right: Any) -> Iterator[str]:
    """Yield the names of leaves that differ in any bit."""
    ours, theirs = to_arrays(left), to_arrays(right)
    yield from (name for name, leaf in ours.items() if leaf.tobytes() != theirs[name].tobytes())


def _require_motion(case: SamplerCase, trace: Trace) -> None:
    """Refuse a comparison of chains that stand still, or of a step size that is not tuned; it would show little."""
    moves = np.any(np.diff(trace.position, axis=0) != 0.0, axis=2)
    _require(case, float(np.mean(moves)) > 0.1, f"chains move in a share of {np.mean(moves):.2f} of their steps only")
    sizes = len(np.unique(trace.statistics["step_size"]))
    _require(case, sizes > 5, f"the step size takes {sizes} values during warm-up; it is hardly tuned")


def _require(case: SamplerCase, is_good: bool, words: str) -> None:
    if not is_good:
        raise AssertionError(f"{case}: {words}.")
