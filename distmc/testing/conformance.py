"""What every kernel keeps, whatever it does with its target.

Each check takes a `KernelCase` and raises an `AssertionError` that says in words what is broken. `KERNEL_CHECKS` has
all of them, so that a test inherits the suite in three lines; see `distmc.testing.cases`. The checks are about form:
that the right distribution comes out is for `distmc.testing.exactness` to say.

The suite uses Hypothesis, which ``pip install distmc[test]`` brings.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distmc.adaptation.metric import FORMS, Form, MetricRule
from distmc.kernels.base import STATISTICS, Target
from distmc.sampling.rng import chain_keys, seed_key
from distmc.sampling.state import to_arrays
from distmc.testing.cases import KernelCase
from distmc.testing.obstacles import (
    BREAKAGES,
    DESERT,
    ISLAND,
    LogDensityAndGrad,
    broken_far_out,
    steep,
    target_of,
    with_bystander,
)
from distmc.types import Array, NumpyArray, PyTree

NUM_CHAINS, NUM_DIMENSIONS = 6, 3
_REQUIRED = ("acceptance_rate", "is_divergent", "is_nonfinite", "num_integration_steps")
_TYPES = {"is_divergent": "bool", "is_nonfinite": "bool", "reached_max_tree_depth": "bool"} | {
    "num_integration_steps": "int32",
    "tree_depth": "int32",
}
# A smaller example would tell no more, and tracing many takes long.
_HYPOTHESIS = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)


class _Outcome(NamedTuple):
    """One step of all chains on the host; leaves by name."""

    before: dict[str, NumpyArray]
    after: dict[str, NumpyArray]
    info: Any


def check_shapes(case: KernelCase) -> None:
    """Require the shapes and types of the contract for any number of chains and dimensions."""

    @_HYPOTHESIS
    @given(num_chains=st.integers(1, 7), num_dimensions=st.integers(1, 5), form=st.sampled_from(FORMS))
    def check(num_chains: int, num_dimensions: int, form: Form) -> None:
        before, after, info = _shapes(case, num_chains, num_dimensions, form)
        _require_state(case, before, num_chains, num_dimensions)
        _require_info(case, info, num_chains)
        _require(
            case, before == after, f"a step turns the state {before} into {after}; a loop over steps needs both alike"
        )

    with jax.enable_x64(True):
        check()


def check_keys(case: KernelCase) -> None:
    """Require the same step for the same keys, to the bit, and another one for other keys."""
    position = _positions()
    first, again, other = (_take_step(case, broken_far_out, position, _keys(step)) for step in (0, 0, 1))
    for name, values in first.after.items():
        _require(case, _bits(values) == _bits(again.after[name]), f"the same keys give another `{name}`")
    is_moved = np.any(first.after["position"] != other.after["position"])
    _require(case, bool(is_moved), "other keys give the same positions: the keys are not used")


def check_order_of_chains(case: KernelCase) -> None:
    """Require that chains listed in another order, with their keys, take the same steps to the bit."""
    order = np.array([3, 0, 5, 1, 4, 2])
    position, keys = _positions(), _keys()
    listed = _take_step(case, broken_far_out, position, keys)
    permuted = _take_step(case, broken_far_out, position[order], keys[order])
    _require_same(case, permuted, listed, order, "listed in another order")


def check_chains_apart(case: KernelCase) -> None:
    """Require that a chain elsewhere changes no bit of the others, with parameters fixed."""
    position, elsewhere = _positions(), _positions()
    elsewhere[2] += 1.5
    alone = np.array([0, 1, 3, 4, 5])
    here, there = (_take_step(case, broken_far_out, start, _keys()) for start in (position, elsewhere))
    _require_same(case, there, here, None, "when one chain starts elsewhere", alone)


def check_broken_target(case: KernelCase) -> None:
    """Require that a proposal without a finite density or gradient is refused, in its chain and nowhere else."""
    others = np.array([0, 1, 3, 4, 5])
    usual = _take_step(case, broken_far_out, _positions(), _keys())
    for kind, (logdensity, grad) in enumerate(BREAKAGES):
        if np.isfinite(logdensity) and not case.has_gradient:
            continue
        where = f"where log-density and gradient of all proposals are {logdensity} and {grad}"
        position = _positions()
        position[2] = ISLAND * (kind + 1)
        mixed = _take_step(case, broken_far_out, position, _keys())
        _require_finite_state(case, mixed, where)
        stays = np.array_equal(mixed.after["position"][2], position[2])
        _require(case, stays, f"{where}, a chain moves to {mixed.after['position'][2]}")
        _require(case, bool(mixed.info.is_nonfinite[2]), f"{where}, `is_nonfinite` is not set")
        rate = mixed.info.acceptance_rate[2]
        _require(case, rate == 0.0, f"{where}, `acceptance_rate` is {rate}, not 0")
        _require_same(case, mixed, usual, None, f"beside a chain {where}", others)


def check_constant_density(case: KernelCase) -> None:
    """Require that every proposal is accepted where the density is constant, and its gradient exactly zero.

    Asked only of kernels that know nothing but the target.
    """
    if not case.knows_only_the_target:
        return
    position = _positions()
    position[:, 0] += DESERT
    flat = _take_step(case, broken_far_out, position, _keys())
    where = "on a constant density"
    _require_finite_state(case, flat, where)
    _require(case, not flat.info.is_nonfinite.any(), f"{where}, `is_nonfinite` is set")
    rate = flat.info.acceptance_rate
    _require(case, bool(np.all(np.abs(rate - 1.0) < 1e-9)), f"{where}, `acceptance_rate` is {rate}, not 1")
    is_moved = np.any(flat.after["position"] != position, axis=1)
    _require(case, bool(is_moved.all()), f"{where}, chains {np.flatnonzero(~is_moved)} stand still")


def check_any_position(case: KernelCase) -> None:
    """Require finite states and sensible figures from any position whose density is finite."""
    numbers = st.floats(-1e12, 1e12) | st.sampled_from([0.0, 1e-300, -1e30, 1e60])

    @_HYPOTHESIS
    @given(position=arrays(np.float64, (NUM_CHAINS, NUM_DIMENSIONS), elements=numbers))
    def check(position: NumpyArray) -> None:
        outcome = _take_step(case, steep, position, _keys())
        _require_finite_state(case, outcome, f"from {position.tolist()}")
        rate = outcome.info.acceptance_rate
        _require(
            case, bool(np.all((rate >= 0.0) & (rate <= 1.0))), f"`acceptance_rate` is {rate}, from {position.tolist()}"
        )
        for name, kept in _statistics(outcome).items():
            is_number = not np.isnan(kept).any()
            _require(case, is_number, f"`{name}` is {kept}, not a number everywhere, from {position.tolist()}")

    check()


def check_evaluations(case: KernelCase) -> None:
    """Require one evaluation of the target in `init`, and as many in a step as `num_integration_steps` says.

    Each evaluation is one message between workers. Chains share it, so the chain that needs most decides.
    """
    with jax.enable_x64(True):
        program = _compiled(case)
        position, start_keys = _positions(), _keys(1)
        for number in range(3):
            program.evaluations.clear()
            _, _, info = jax.block_until_ready(
                program.step(_number(steep), start_keys, _keys(number), position, program.parameters)
            )
            jax.effects_barrier()
            calls, told = program.evaluations.count("init"), int(np.max(info.num_integration_steps))
            _require(case, calls == 1, f"`init` evaluates the target {calls} times, not once")
            calls = program.evaluations.count("step")
            words = f"a step evaluates the target {calls} times, but `num_integration_steps` says {told}"
            _require(case, calls == told, words)


def check_inner_product(case: KernelCase) -> None:
    """Require that whatever is summed over coordinates is summed by the target's `dot`, and by nothing else.

    The last coordinate has no part in the density nor in `dot`, so that wherever a chain starts along it, and whatever
    speed it gains there, nothing else may change. A kernel that adds up squared momenta itself would see it.
    """
    if not case.has_gradient:
        # Nothing but the noise would tell of the coordinate, and that is the same wherever it starts.
        return
    position, elsewhere = _positions(), _positions()
    elsewhere[:, -1] += 2.0
    here, there = (_take_step(case, with_bystander, start, _keys()) for start in (position, elsewhere))
    when = "when a coordinate that the target's `dot` leaves out starts elsewhere: something is summed without it"
    _require_same(case, _without_last(there), _without_last(here), None, when)


def _without_last(outcome: _Outcome) -> _Outcome:
    """Return the outcome with positions that lack the last coordinate, and log-densities, for all of the state."""
    after = {"position": outcome.after["position"][:, :-1], "logdensity": outcome.after["logdensity"]}
    return outcome._replace(after=after)


def check_parameters_are_values(case: KernelCase) -> None:
    """Require that other parameters of the same shapes are taken by the compiled step as it is."""
    with jax.enable_x64(True):
        program = _compiled(case)
        step = functools.partial(program.step, _number(steep), _keys(1), _keys(), _positions())
        words = "a step is compiled again when its parameters change: they are not all arrays"
        try:
            step(program.parameters)
        except jax.errors.ConcretizationTypeError as error:
            raise AssertionError(f"{case}: a step needs its parameters as Python values. {error}") from error
        program.traces.clear()
        for factor in (0.5, 0.9, 1.2):
            step(jax.tree.map(functools.partial(_scaled, factor), program.parameters))
        _require(case, not program.traces, words)


KERNEL_CHECKS: tuple[Callable[[KernelCase], None], ...] = (
    check_shapes,
    check_keys,
    check_order_of_chains,
    check_chains_apart,
    check_broken_target,
    check_constant_density,
    check_any_position,
    check_evaluations,
    check_inner_product,
    check_parameters_are_values,
)
"""All checks of a kernel."""


# Steps ----------------------------------------------------------------------------------------------------------------

_DENSITIES: tuple[LogDensityAndGrad, ...] = (steep, broken_far_out, with_bystander)


class _Program(NamedTuple):
    """One step of all chains, compiled once for all checks of a case: compiling is most of what they take."""

    # From the number of a density, keys to start with, keys, positions and parameters to state, new state and info.
    step: Callable[..., Any]
    parameters: Any
    # "init" or "step" for each evaluation of the target; all are there behind `jax.effects_barrier`.
    evaluations: list[str]
    # As many as `step` has been traced times.
    traces: list[int]


@functools.lru_cache(maxsize=4)
def _compiled(case: KernelCase) -> _Program:
    evaluations: list[str] = []
    traces: list[int] = []

    def step(
        density: Array, start_keys: Array, rng_keys: Array, position: Array, parameters: Any
    ) -> tuple[Any, Any, Any]:
        traces.append(1)
        starting, stepping = (
            case.build_kernel(_target(density, functools.partial(evaluations.append, name)))
            for name in ("init", "step")
        )
        state = case.start(starting, start_keys, position)
        return state, *stepping.step(rng_keys, state, parameters)

    return _Program(jax.jit(step), _parameters(case), evaluations, traces)


def _target(density: Array, tell: Callable[[], None]) -> Target:
    """Return the target that has one of `_DENSITIES`, and tells of each evaluation."""

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        jax.debug.callback(tell)
        value, grad = jax.lax.switch(density, _DENSITIES, position)
        return value, grad

    def dot(a: Array, b: Array) -> Array:
        # That of the bystander leaves out the last coordinate.
        is_left_out = (density == _number(with_bystander)) & (jnp.arange(a.shape[-1]) == a.shape[-1] - 1)
        return jnp.sum(jnp.where(is_left_out, 0.0, a * b), axis=-1)

    return target_of(logdensity_and_grad)._replace(dot=dot)


def _number(density: LogDensityAndGrad) -> int:
    return _DENSITIES.index(density)


def _take_step(case: KernelCase, logdensity_and_grad: LogDensityAndGrad, position: NumpyArray, keys: Array) -> _Outcome:
    with jax.enable_x64(True):
        program = _compiled(case)
        number, start_keys = _number(logdensity_and_grad), _start_keys(keys)
        before, after, info = program.step(number, start_keys, keys, position, program.parameters)
        return _Outcome(to_arrays(before), to_arrays(after), jax.tree.map(np.asarray, info))


@jax.jit
def _start_keys(keys: Array) -> Array:
    start_keys: Array = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    return start_keys


def _positions() -> NumpyArray:
    return np.random.default_rng(3).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))


@functools.partial(jax.jit, static_argnums=1)
def _keys(step: int = 0, num_chains: int = NUM_CHAINS) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), num_chains)


def _parameters(case: KernelCase) -> Any:
    return case.parameters(MetricRule(num_dimensions=NUM_DIMENSIONS, form="diagonal").first(), NUM_CHAINS)


def _scaled(factor: float, leaf: Any) -> Any:
    """Return another value of the same shape and type."""
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return leaf * factor
    return leaf + 1 if jnp.issubdtype(jnp.result_type(leaf), jnp.integer) else leaf


# Requirements ---------------------------------------------------------------------------------------------------------


def _shapes(case: KernelCase, num_chains: int, num_dimensions: int, form: Form) -> tuple[PyTree, PyTree, PyTree]:
    """Return shapes and types of the state before and after a step, by name, and those of its info."""

    def run(position: Array) -> tuple[Any, Any, Any]:
        kernel = case.build_kernel(target_of(steep))
        state = case.start(kernel, _keys(1, num_chains), position)
        parameters = case.parameters(MetricRule(num_dimensions=num_dimensions, form=form).first(), num_chains)
        return state, *kernel.step(_keys(0, num_chains), state, parameters)

    before, after, info = jax.eval_shape(run, jax.ShapeDtypeStruct((num_chains, num_dimensions), np.float64))
    return _by_name(before), _by_name(after), info


def _by_name(tree: PyTree) -> dict[str, tuple[str, tuple[int, ...]]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (str(leaf.dtype), leaf.shape) for path, leaf in leaves
    }


def _require_state(case: KernelCase, state: dict[str, Any], num_chains: int, num_dimensions: int) -> None:
    expected = {"position": (num_chains, num_dimensions), "logdensity": (num_chains,)}
    for name, shape in expected.items():
        _require(case, name in state, f"the state has no `{name}`")
        words = f"`{name}` of the state is {state[name]}, not float64 {shape}"
        _require(case, state[name] == ("float64", shape), words)
    for name, (_, shape) in state.items():
        words = f"the first axis of `{name}` in the state is not the chain: {shape} for {num_chains} chains"
        _require(case, shape[:1] == (num_chains,), words)


def _require_info(case: KernelCase, info: Any, num_chains: int) -> None:
    for name in _REQUIRED:
        _require(case, hasattr(info, name), f"the info has no `{name}`")
    for name in STATISTICS:
        if not hasattr(info, name):
            continue
        leaf, expected = getattr(info, name), _TYPES.get(name, "float64")
        shapes = [(num_chains,), ()] if name == "num_integration_steps" else [(num_chains,)]
        words = f"`{name}` of the info is {leaf.dtype} {leaf.shape}, not {expected} {' or '.join(map(str, shapes))}"
        _require(case, leaf.dtype == expected and leaf.shape in shapes, words)


def _require_finite_state(case: KernelCase, outcome: _Outcome, where: str) -> None:
    for name, values in outcome.after.items():
        _require(case, bool(np.isfinite(values).all()), f"{where}, `{name}` of the state becomes {values}")


def _require_same(
    case: KernelCase, new: _Outcome, old: _Outcome, order: Any, when: str, chains: Any = slice(None)
) -> None:
    """Require equal bits of state and statistics; `order` says which chain of `old` each chain of `new` is."""
    place = np.arange(NUM_CHAINS) if order is None else order
    pairs = [(new.after, old.after), (_statistics(new), _statistics(old))]
    for ours, theirs in pairs:
        for name, values in ours.items():
            if values.shape[:1] == (NUM_CHAINS,):
                same = _bits(values[chains]) == _bits(theirs[name][place][chains])
                _require(case, same, f"`{name}` of a chain changes {when}")


def _statistics(outcome: _Outcome) -> dict[str, NumpyArray]:
    return {name: getattr(outcome.info, name) for name in STATISTICS if hasattr(outcome.info, name)}


def _bits(values: NumpyArray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def _require(case: KernelCase, is_good: bool, words: str) -> None:
    if not is_good:
        raise AssertionError(f"{case}: {words}.")
