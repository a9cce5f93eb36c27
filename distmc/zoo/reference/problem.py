"""What a problem of the reference set is."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from distmc.data.data import Data
from distmc.model.model import Model, Parameter
from distmc.types import Array, ConstrainedParameters
from distmc.zoo.answers import Answer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A posterior and what is known of it.

    Attributes
    ----------
    name : str
        What to call it.
    model, data : Model, Data
        What `distmc.sample` is given; all else is left at its defaults.
    answers : mapping of Answer
        Exact moments by parameter, found without the model: by algebra, on a grid, or by enumeration.
    source : str
        How the answers were found, or where they are published.
    is_within_reach : bool
        Whether samplers with one metric for all places can be expected to find the answers. Where not, a run has to
        end in a verdict that says so.
    """

    name: str
    model: Model
    data: Data
    answers: Mapping[str, Answer]
    source: str
    is_within_reach: bool = True

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def density_model(logdensity: Callable[[Array], Array], num_dimensions: int) -> Model:
    """Return the model of a density over all of space, whose one parameter is `x`, (num_dimensions,).

    Parameters
    ----------
    logdensity : callable
        From `x` to its log-density, up to a constant.
    num_dimensions : int
        Coordinates; chains start uniformly on [-2, 2] in each.
    """

    def log_prior(params: ConstrainedParameters) -> Array:
        return logdensity(params["x"])

    return Model(parameters={"x": Parameter(shape=(num_dimensions,))}, log_likelihood=_say_nothing, log_prior=log_prior)


def no_rows() -> Data:
    """Return the data of a model that has none: two rows that say nothing."""
    return Data(rows={"nothing": np.zeros(2)})


def _say_nothing(params: ConstrainedParameters, data: Mapping[str, Array]) -> Array:
    return jnp.zeros_like(data["nothing"])
