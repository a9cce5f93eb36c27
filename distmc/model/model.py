"""A model: named parameters with priors and supports, and a log-likelihood of rows."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform, biject_to

from distmc.errors import ModelError
from distmc.types import ConstrainedParameters

LogLikelihood: TypeAlias = Callable[[ConstrainedParameters, dict[str, Any]], Any]
LogPrior: TypeAlias = Callable[[ConstrainedParameters], Any]

# Dimensions of the saved draws, which a variable beside them cannot be named after.
_RESERVED_NAMES = ("chain", "draw")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter whose prior is flat on its support, up to what the model's `log_prior` adds.

    Attributes
    ----------
    shape : tuple of int
        Shape of one value.
    support : numpyro constraint
        Where values may lie, for instance ``numpyro.distributions.constraints.positive``.
    """

    shape: tuple[int, ...] = ()
    support: Any = dataclasses.field(default_factory=lambda: dist.constraints.real)

    def __post_init__(self) -> None:
        """Refuse what is not a shape or not a constraint."""
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ModelError(f"`shape={self.shape!r}` is not a shape; give a tuple of whole numbers, such as `(3, 2)`.")
        object.__setattr__(self, "shape", shape)
        if not isinstance(self.support, Constraint):
            raise ModelError(
                f"`support={self.support!r}` is not a constraint; give one of `numpyro.distributions.constraints`, "
                "such as `constraints.positive` or `constraints.interval(0.0, 1.0)`."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Parameters with priors and supports, and how the rows depend on them.

    Attributes
    ----------
    parameters : dict of numpyro distribution or Parameter
        By name, in the order of the unconstrained coordinates. A distribution is prior and support in one,
        its shape is ``batch_shape + event_shape``.
    log_likelihood : callable
        ``log_likelihood(params, data)`` with the parameters of one chain on their supports, and a mapping of row
        variables (any number of rows) and constants. Returns the (num_rows,) contributions of the rows, or their
        sum. A row's contribution must not depend on the other rows.
    log_prior : callable or None
        ``log_prior(params)``, a scalar that is added to the priors: a density of the constrained parameters.
    is_differentiable : bool
        False says that log-likelihood or `log_prior` have no gradient that is of use: they round, count, branch on
        values, or call out of JAX with ``jax.pure_callback``. Such a model is sampled without gradients, by `RWMH`
        or `Slice`.

    Raises
    ------
    ModelError
        If a parameter has no prior or support that a sampler of continuous parameters can use.

    Notes
    -----
    Device arrays inside the distributions are kept as NumPy arrays, so that a model can be unpickled in a process
    that has not started JAX's devices yet.
    """

    parameters: Mapping[str, Any]
    log_likelihood: LogLikelihood
    log_prior: LogPrior | None = None
    is_differentiable: bool = True

    def __post_init__(self) -> None:
        """Check every parameter and both functions."""
        if not isinstance(self.parameters, Mapping) or not self.parameters:
            raise ModelError(
                f"`parameters={self.parameters!r}` holds no parameters; give a mapping from names to NumPyro "
                "distributions or `distmc.Parameter`."
            )
        _require_function("log_likelihood", self.log_likelihood, "fn(params, data)", 2)
        if self.log_prior is not None:
            _require_function("log_prior", self.log_prior, "fn(params)", 1)
        if not isinstance(self.is_differentiable, bool):
            raise ModelError(f"`is_differentiable={self.is_differentiable!r}` must be `True` or `False`.")
        parameters = {}
        for name, parameter in self.parameters.items():
            _require_name(name)
            _require_kind(name, parameter)
            parameters[name] = _without_device_arrays(parameter)
            bijection(name, parameters[name])
        object.__setattr__(self, "parameters", parameters)
        if not any(np.prod(inner) for inner in map(unconstrained_shape, parameters, parameters.values())):
            raise ModelError("`parameters` leave no dimension to move in, so there is nothing to sample.")


def support_of(parameter: Any) -> Constraint:
    """Return the constraint that a parameter's values satisfy."""
    return parameter.support


def shape_of(parameter: Any) -> tuple[int, ...]:
    """Return the shape of one value of a parameter on its support."""
    if isinstance(parameter, Parameter):
        return parameter.shape
    return tuple(parameter.batch_shape) + tuple(parameter.event_shape)


def bijection(name: str, parameter: Any) -> Transform:
    """Return NumPyro's map from all real numbers onto a parameter's support.

    Raises
    ------
    ModelError
        If NumPyro has none, or it does not fit the parameter's shape.
    """
    support = support_of(parameter)
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ModelError(
            f"Parameter `{name}` has the support `{support!r}`, which NumPyro cannot map from all real numbers; "
            "sampling needs that. Choose another parametrisation, for instance an angle in place of a "
            "point on a circle."
        ) from error
    shape = shape_of(parameter)
    try:
        fits = len(shape) >= support.event_dim and transform.forward_shape(transform.inverse_shape(shape)) == shape
    except (ValueError, IndexError, AssertionError, TypeError):
        fits = False
    if not fits:
        raise ModelError(
            f"Parameter `{name}` has shape {shape}, which is no shape of the support `{support!r}`: its values have "
            f"{support.event_dim} axes of their own. Correct `shape` or `support`."
        )
    return transform


def unconstrained_shape(name: str, parameter: Any) -> tuple[int, ...]:
    """Return the shape of a parameter's unconstrained coordinates."""
    return tuple(bijection(name, parameter).inverse_shape(shape_of(parameter)))


def _require_function(what: str, function: object, form: str, num_arguments: int) -> None:
    if not callable(function):
        raise ModelError(f"`{what}={function!r}` is not a function; give `{form}`.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(num_arguments))
    except TypeError as error:
        raise ModelError(f"`{what}` has the signature `{signature}`; it is called as `{form}` ({error}).") from error


def _require_name(name: object) -> None:
    if not isinstance(name, str) or not name or "/" in name:
        raise ModelError(
            f"The parameter name {name!r} is not usable; names are non-empty text without `/`, because draws are saved "
            "under them."
        )
    if name in _RESERVED_NAMES:
        raise ModelError(f"The parameter name `{name}` is taken: it is a dimension of the saved draws. Choose another.")


def _require_kind(name: str, parameter: Any) -> None:
    if isinstance(parameter, type):
        raise ModelError(f"Parameter `{name}` is the class `{parameter.__name__}`; call it to make a prior of it.")
    if not isinstance(parameter, dist.Distribution | Parameter):
        raise ModelError(
            f"Parameter `{name}` is of type `{type(parameter).__name__}`; give a NumPyro distribution, which is prior "
            "and support in one, or `distmc.Parameter(shape, support)`. What is fixed belongs into the data's "
            "`constants`."
        )
    if isinstance(parameter, dist.Delta):
        raise ModelError(
            f"Parameter `{name}` has the prior `Delta`, which fixes it; put its value into the data's `constants`."
        )
    try:
        support = support_of(parameter)
        is_discrete = support is not None and support.is_discrete
    except NotImplementedError:
        support, is_discrete = None, False
    kind = type(parameter).__name__
    if support is None:
        raise ModelError(f"Parameter `{name}` of kind `{kind}` has no support, so its values cannot be placed.")
    if is_discrete:
        raise ModelError(
            f"Parameter `{name}` of kind `{kind}` is discrete (support `{support!r}`); distmc samples "
            "continuous ones only. Sum it out in the log-likelihood, as a hidden Markov model does with its states."
        )
    if isinstance(support, type(dist.constraints.complex)):
        raise ModelError(
            f"Parameter `{name}` is complex; give its real and imaginary part as two parameters and combine them in "
            "the log-likelihood."
        )


def _without_device_arrays(parameter: Any) -> Any:
    """Return the same distribution or parameter with NumPy arrays in place of JAX's."""
    if isinstance(parameter, Parameter):
        return dataclasses.replace(parameter, support=_to_numpy(parameter.support))
    return _to_numpy(parameter)


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree)
