"""Where the chains start: draws from the prior, or what a person gives."""

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distmc.errors import StartError
from distmc.model.brief import brief
from distmc.model.model import Model, Parameter, shape_of, support_of
from distmc.model.transforms import Unconstrainer
from distmc.types import Array, NumpyArray

UNTAKEN_BRANCH = (
    "usually a branch that is not taken has no gradient, such as `jnp.where(x > 0, jnp.log(x), 0)`: replace its "
    "argument by a harmless number before the function, as in `jnp.log(jnp.where(x > 0, x, 1))`."
)
"""Why a gradient may not be finite where the log-density is."""

FLOAT64_HELPS = (
    'In float64 it is finite: give `precision="float64"`, or write the likelihood so that float32 suffices, such as '
    "`jax.nn.log_sigmoid(-x)` in place of `jnp.log(1 - 1 / (1 + jnp.exp(-x)))`, the logarithm of what rounds to 0."
)
"""What to do where something is finite in float64 only."""

# Half-width of the interval on which coordinates of a flat prior are drawn, as Stan does.
_FLAT_RADIUS = 2.0

# The compiled program that draws one chain's position; kept as long as the model is.
_DRAWS: weakref.WeakKeyDictionary[Model, Callable[..., Array]] = weakref.WeakKeyDictionary()


def starting_positions(
    model: Model, num_chains: int, seed: int, initial: Mapping[str, Any] | None = None
) -> NumpyArray:
    """Return where the chains start.

    Parameters
    ----------
    model : Model
        Its priors are drawn from. A `Parameter`, and a prior that NumPyro cannot draw from, is drawn uniformly on
        [-2, 2] in unconstrained coordinates; so is a draw on the boundary of its support, or too near to be told
        from it.
    num_chains : int
        Number of chains.
    seed : int
        Seed of the draws. A chain's draws depend on it, the chain's number and the parameter's place alone: not
        on the number of chains, and not on what `initial` holds.
    initial : mapping of array, or None
        Parameter name to a constrained value, of one event's shape for all chains or with a leading axis of chains.
        Parameters left out are drawn.

    Returns
    -------
    positions : float64 NumPy array (num_chains, num_dimensions)
        Unconstrained coordinates, all finite.

    Raises
    ------
    StartError
        If `initial` names no parameter of the model, has another shape, or lies outside or on the boundary of the
        support.
    """
    given = _require_known(model, initial)
    with jax.enable_x64(True):
        unconstrainer = Unconstrainer(model)
        if len(given) == len(model.parameters):
            positions = np.zeros((num_chains, unconstrainer.num_dimensions))
        else:
            positions = _drawn_positions(model, num_chains, seed)
        offset = 0
        for name, parameter in model.parameters.items():
            size = math.prod(unconstrainer.unconstrained_shapes[name])
            if name in given:
                columns = _given_coordinates(unconstrainer, name, parameter, given[name], num_chains)
                positions[:, offset : offset + size] = columns
            offset += size
    return positions


def require_finite_starts(
    logdensity: NumpyArray, gradient: NumpyArray | None, rows: str = "", *, is_rounded: bool = False, advice: str = ""
) -> None:
    """Refuse chains that start where they could never move away from.

    Parameters
    ----------
    logdensity : float array (num_chains,)
        At the starting positions.
    gradient : float array (num_chains, num_dimensions), or None
        Its gradient; None for a sampler that needs none.
    rows : str
        Which rows were evaluated, in words; nothing where that goes without saying.
    is_rounded : bool
        Whether rows had float32 digits, and whether float64 would help is not known.
    advice : str
        What to do, where the cause is known.

    Raises
    ------
    StartError
        Names the first of the chains where either is not finite.
    """
    is_good = np.isfinite(logdensity)
    if gradient is not None:
        is_good &= np.all(np.isfinite(gradient), axis=1)
    if np.all(is_good):
        return
    bad = np.flatnonzero(~is_good)
    has_value = np.isfinite(logdensity)
    shown = ", ".join(
        f"chain {chain}: log-density {logdensity[chain]}" + ", but its gradient is not finite" * bool(has_value[chain])
        for chain in bad[:3]
    )
    if not advice:
        advice = (
            "A chain can only start inside the support of prior and likelihood; give starting values with `initial`, "
            "or a prior that keeps away from impossible parameters."
            + ' Where float32 over- or underflows, give `precision="float64"`.'
            * is_rounded
        )
        if has_value[bad].any():
            # Rows are named by the checks before a run, and `distmc.check` looks at the same.
            cause = "`distmc.check` says in which coordinates, and how that comes about." if rows else UNTAKEN_BRANCH
            advice += f" Where only the gradient is not finite: {cause}"
    what = "log-density is" if gradient is None else "log-density or its gradient is"
    raise StartError(
        f"{bad.size} of {is_good.size} chains start where the {what} not finite ({shown}{rows and f'; {rows}'}). "
        f"{advice}"
    )


def _require_known(model: Model, initial: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if initial is None:
        return {}
    names = ", ".join(f"`{name}`" for name in model.parameters)
    if not isinstance(initial, Mapping):
        raise StartError(f"`initial` is of type `{type(initial).__name__}`; give a mapping from {names} to values.")
    unknown = [name for name in initial if name not in model.parameters]
    if unknown:
        raise StartError(f"`initial` names {unknown}, but the model's parameters are {names}.")
    return initial


def _drawn_positions(model: Model, num_chains: int, seed: int) -> NumpyArray:
    """Return draws for all parameters, (num_chains, num_dimensions).

    Chain by chain with one compiled program: it serves any number of chains, whose draws then cannot depend on it,
    and compiling random Dirichlet or gamma numbers takes a second even briefly.
    """
    draw = _DRAWS.get(model)
    if draw is None:
        draw = _DRAWS[model] = brief(_build_draw(model.parameters, Unconstrainer(model)))
    root = jax.random.key(seed, impl="threefry2x32")
    # Of NumPy: JAX would compile a program to take its own array apart.
    return np.stack([np.asarray(draw(root, chain)) for chain in np.arange(num_chains, dtype=np.uint32)])


def _build_draw(parameters: Mapping[str, Any], unconstrainer: Unconstrainer) -> Callable[[Array, Array], Array]:
    def draw(root: Array, chain: Array) -> Array:
        key = jax.random.fold_in(root, chain)
        pieces = [
            _draw_one(jax.random.fold_in(key, place), name, parameter, unconstrainer)
            for place, (name, parameter) in enumerate(parameters.items())
        ]
        return jnp.concatenate(pieces)

    return draw


def _draw_one(key: Array, name: str, parameter: Any, unconstrainer: Unconstrainer) -> Array:
    prior_key, flat_key = jax.random.split(key)
    size = math.prod(unconstrainer.unconstrained_shapes[name])
    flat = jax.random.uniform(flat_key, (size,), dtype=jnp.float64, minval=-_FLAT_RADIUS, maxval=_FLAT_RADIUS)
    if isinstance(parameter, Parameter):
        return flat
    # The barriers keep the compiler from cancelling the map against its inverse, which would hide an underflow.
    try:
        value = _barrier(parameter.sample(prior_key))
    except NotImplementedError:
        return flat
    drawn = _barrier(unconstrainer.unconstrain_one(name, value))
    reached, log_abs_det = unconstrainer.constrain_one(name, drawn)
    density = jnp.sum(parameter.log_prob(reached)) + log_abs_det
    is_inside = jnp.all(jnp.isfinite(drawn)) & jnp.isfinite(density)
    return jnp.where(is_inside, drawn.reshape(size), flat)


def _barrier(value: Array) -> Array:
    kept: Array = jax.lax.optimization_barrier(value)
    return kept


def _given_coordinates(
    unconstrainer: Unconstrainer, name: str, parameter: Any, value: Any, num_chains: int
) -> NumpyArray:
    values = _per_chain(name, shape_of(parameter), value, num_chains)
    support = support_of(parameter)
    is_inside = np.asarray(jax.jit(jax.vmap(lambda one: jnp.all(support(one))))(values))
    _require_all(is_inside, values, f"`initial[{name!r}]` lies outside the support `{support!r}`")
    move = jax.jit(jax.vmap(lambda one: unconstrainer.unconstrain_one(name, one).reshape(-1)))
    coordinates = np.asarray(move(values))
    is_finite = np.isfinite(coordinates).all(axis=1)
    _require_all(
        is_finite,
        values,
        f"`initial[{name!r}]` lies on the boundary of the support `{support!r}`, which is infinitely far away in the "
        "coordinates that the chains move in",
    )
    return coordinates


def _per_chain(name: str, shape: tuple[int, ...], value: Any, num_chains: int) -> NumpyArray:
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StartError(f"`initial[{name!r}]` cannot be read as an array of real numbers: {error}.") from error
    if values.shape == shape:
        return np.broadcast_to(values, (num_chains, *shape))
    if values.shape == (num_chains, *shape):
        return values
    raise StartError(
        f"`initial[{name!r}]` has shape {values.shape}; give {shape} for all chains alike, or {(num_chains, *shape)} "
        "for one value a chain."
    )


def _require_all(is_good: NumpyArray, values: NumpyArray, problem: str) -> None:
    if not is_good.all():
        chain = int(np.argmin(is_good))
        shown = np.array2string(values[chain], precision=4, threshold=20)
        raise StartError(f"{problem}: chain {chain} was given {shown}. Give a value inside.")
