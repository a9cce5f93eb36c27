"""Other packages' samplers on a log-density of ours: each takes the same starts and gives back draws, gradients, times.

Nothing of a peer is imported before it is asked for. All work in float64 on unconstrained coordinates; in what type the
log-density evaluates rows is its own affair.
"""

import contextlib
import dataclasses
import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a peer is given.

    Attributes
    ----------
    logdensity : callable
        From (num_dimensions,) coordinates to a scalar.
    start : float64 array (num_chains, num_dimensions)
        Where the chains start.
    num_warmup, num_draws : int
        Of each chain.
    seed : int
        Of the draws.
    """

    logdensity: Callable[[Any], Any]
    start: Any
    num_warmup: int
    num_draws: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back.

    Attributes
    ----------
    draws : float64 array (num_chains, num_draws, num_dimensions)
        Unconstrained coordinates, warm-up left out.
    gradients, warmup_gradients : float
        Evaluations of the log-density and its gradient by all chains at once, for the draws and before. Where chains
        move in lockstep the longest trajectory counts; where each runs by itself, the mean.
    seconds, warmup_seconds : float
        For the draws and before them, compilation apart.
    compile_seconds : float
        Whatever else it took: compilation, and for ours the run's files too.
    num_divergent : int
        Divergences among the draws.
    verdict : str or None
        What distmc says of its own draws: "good", "doubtful" or "bad".
    again : callable or None
        Takes all draws once more with what is compiled, where that can be done.
    """

    draws: Any
    gradients: float
    warmup_gradients: float
    seconds: float
    warmup_seconds: float
    compile_seconds: float
    num_divergent: int
    verdict: str | None = None
    again: Callable[[], Any] | None = None


# NumPyro --------------------------------------------------------------------------------------------------------------


def numpyro_nuts(task: Task) -> Outcome:
    """Run NUTS with its defaults, all chains in one vectorised program.

    The kernel's own functions are called, as `numpyro.infer.MCMC` does, so that they can be compiled beforehand.
    """
    from numpyro.infer import NUTS

    kernel = NUTS(potential_fn=lambda position: -task.logdensity(position))

    def begin(keys: Any, start: Any) -> Any:
        return kernel.init(keys, task.num_warmup, start)

    def advance(state: Any, num_steps: int) -> Any:
        def step(state: Any, _: Any) -> Any:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        return jax.lax.scan(step, state, length=num_steps)

    seconds: dict[str, float] = {}
    keys, start = jax.random.split(jax.random.key(task.seed), len(task.start)), jnp.asarray(task.start)
    with stopwatch(seconds, "compile"):
        compiled_begin = jax.jit(begin).lower(keys, start).compile()
        state = compiled_begin(keys, start)
        compiled_warmup, compiled_draws = (
            jax.jit(advance, static_argnums=1).lower(state, num_steps).compile()
            for num_steps in (task.num_warmup, task.num_draws)
        )
    with stopwatch(seconds, "warmup"):
        state, (_, warmup_steps, _) = jax.block_until_ready(compiled_warmup(compiled_begin(keys, start)))
    with stopwatch(seconds, "draws"):
        _, (positions, steps, is_divergent) = jax.block_until_ready(compiled_draws(state))
    return Outcome(
        draws=np.moveaxis(np.asarray(positions), 0, 1),
        gradients=_in_lockstep(np.asarray(steps).T),
        warmup_gradients=_in_lockstep(np.asarray(warmup_steps).T),
        seconds=seconds["draws"],
        warmup_seconds=seconds["warmup"],
        compile_seconds=seconds["compile"],
        num_divergent=int(np.sum(is_divergent)),
    )


# BlackJAX -------------------------------------------------------------------------------------------------------------


def blackjax_chees(task: Task, **settings: Any) -> Outcome:
    """Run HMC whose shared trajectory length the ChEES criterion adapts."""
    import blackjax
    import optax

    num_chains = len(task.start)
    adaptation = blackjax.chees_adaptation(task.logdensity, num_chains, **settings)

    def warm_up(key: Any, start: Any) -> Any:
        # Step size and learning rate of the package's own examples.
        (states, parameters), trace = adaptation.run(
            key, start, 0.1, optax.adam(0.025), task.num_warmup, max_sampling_steps=task.num_draws
        )
        functions.update({name: value for name, value in parameters.items() if callable(value)})
        numbers = {name: value for name, value in parameters.items() if not callable(value)}
        return states, numbers, trace.info.num_integration_steps

    def draw(key: Any, states: Any, numbers: Any) -> Any:
        step = jax.vmap(blackjax.dynamic_hmc(task.logdensity, **numbers, **functions).step)

        def advance(states: Any, key: Any) -> Any:
            states, info = step(jax.random.split(key, num_chains), states)
            return states, (states.position, info.num_integration_steps, info.is_divergent)

        return jax.lax.scan(advance, states, jax.random.split(key, task.num_draws))[1]

    # Functions among what was adapted cannot leave a compiled program; tracing it puts them here.
    functions: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    warmup_key, draw_key = jax.random.split(jax.random.key(task.seed))
    start = jnp.asarray(task.start)
    with stopwatch(seconds, "compile warmup"):
        compiled_warmup = jax.jit(warm_up).lower(warmup_key, start).compile()
    with stopwatch(seconds, "warmup"):
        states, numbers, warmup_steps = jax.block_until_ready(compiled_warmup(warmup_key, start))
    with stopwatch(seconds, "compile draws"):
        compiled_draws = jax.jit(draw).lower(draw_key, states, numbers).compile()
    with stopwatch(seconds, "draws"):
        positions, steps, is_divergent = jax.block_until_ready(compiled_draws(draw_key, states, numbers))
    return Outcome(
        draws=np.moveaxis(np.asarray(positions), 0, 1),
        gradients=_in_lockstep(np.asarray(steps).T),
        warmup_gradients=_in_lockstep(np.asarray(warmup_steps).T),
        seconds=seconds["draws"],
        warmup_seconds=seconds["warmup"],
        compile_seconds=seconds["compile warmup"] + seconds["compile draws"],
        num_divergent=int(np.sum(is_divergent)),
        again=lambda: jax.block_until_ready(compiled_draws(draw_key, states, numbers)),
    )


# nutpie ---------------------------------------------------------------------------------------------------------------


def nutpie_nuts(task: Task) -> Outcome:
    """Run NUTS with its defaults, each chain by itself, as many at a time as there are cores."""
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    num_chains, num_dimensions = task.start.shape
    seconds: dict[str, float] = {}
    with stopwatch(seconds, "compile"):
        one = jax.ShapeDtypeStruct((num_dimensions,), np.float64)
        evaluate = jax.jit(jax.value_and_grad(task.logdensity)).lower(one).compile()

    def logdensity_and_grad(position: Any) -> Any:
        with jax.enable_x64(True):
            value, grad = evaluate(position)
        return float(value), np.asarray(grad, np.float64)

    model = from_pyfunc(
        num_dimensions,
        make_logp_fn=lambda: logdensity_and_grad,
        make_expand_fn=lambda seed1, seed2, chain: lambda position: {"x": np.asarray(position, np.float64)},
        expanded_dtypes=[np.dtype(np.float64)],
        expanded_shapes=[(num_dimensions,)],
        expanded_names=["x"],
        # The package asks for a start by a seed of its own, chain by chain.
        make_initial_point_fn=lambda seed: task.start[seed % num_chains],
    )
    with stopwatch(seconds, "all"):
        found = nutpie.sample(
            model,
            draws=task.num_draws,
            tune=task.num_warmup,
            chains=num_chains,
            cores=usable_cores(),
            seed=task.seed,
            progress_bar=False,
        )
    gradients = float(np.asarray(found["sample_stats"]["n_steps"]).sum()) / num_chains
    warmup_gradients = float(np.asarray(found["warmup_sample_stats"]["n_steps"]).sum()) / num_chains
    share = gradients / (gradients + warmup_gradients)
    return Outcome(
        draws=np.asarray(found["posterior"]["x"]).reshape(num_chains, task.num_draws, num_dimensions),
        gradients=gradients,
        warmup_gradients=warmup_gradients,
        # Chains do not end their warm-ups together: time is shared out by gradients.
        seconds=share * seconds["all"],
        warmup_seconds=(1.0 - share) * seconds["all"],
        compile_seconds=seconds["compile"],
        num_divergent=int(np.asarray(found["sample_stats"]["diverging"]).sum()),
    )


# What they share ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A sampler of another package.

    Attributes
    ----------
    package : str
        What has to be installed.
    run : callable
        From a `Task` to an `Outcome`.
    """

    package: str
    run: Callable[[Task], Outcome]

    @property
    def is_installed(self) -> bool:
        """Say whether the package can be imported."""
        with contextlib.suppress(ImportError):
            importlib.import_module(self.package)
            return True
        return False


PEERS = {
    "NumPyro NUTS": Peer(package="numpyro", run=numpyro_nuts),
    "BlackJAX ChEES": Peer(package="blackjax", run=blackjax_chees),
    "BlackJAX ChEES, diagonal metric": Peer(
        package="blackjax", run=lambda task: blackjax_chees(task, mass_matrix_estimation="diagonal")
    ),
    "nutpie": Peer(package="nutpie", run=nutpie_nuts),
}


@contextlib.contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Write down how long the block takes."""
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_lockstep(steps: Any) -> float:
    """Return the evaluations that all chains take together, from each chain's (num_chains, num_draws)."""
    return float(np.max(steps, axis=0).sum())
