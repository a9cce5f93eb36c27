"""Between the sampler's coordinates and the model's parameters.

A sampler moves one flat vector of real numbers. NumPyro's bijections turn it into parameters on their supports
and give the log-determinant that the density needs for the change of variables (Carpenter et al. 2017, section
on variable transforms, doi:10.18637/jss.v076.i01).
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from distmc.errors import ModelError
from distmc.model.model import Model, bijection, shape_of, unconstrained_shape
from distmc.types import Array, ConstrainedParameters


class Unconstrainer:
    """The unconstrained coordinates of one chain of a model; `jax.vmap` its methods over chains.

    Coordinates follow the order of the model's parameters, each parameter in C order. Computations have the
    type of what is given: float64 where JAX's 64-bit mode is on.

    Parameters
    ----------
    model : Model
        Its parameters' supports decide the coordinates.

    Attributes
    ----------
    shapes : dict of tuple of int
        Parameter name to the shape of a value on its support.
    unconstrained_shapes : dict of tuple of int
        Parameter name to the shape of its coordinates; a simplex of 3 has 2 of them.
    num_dimensions, num_constrained : int
        Number of coordinates, and of numbers in all parameters.
    coordinate_names : tuple of str, num_dimensions of them
        For instance ``transition[0,1]``; the index is the coordinate's, not the constrained value's.
    """

    def __init__(self, model: Model) -> None:
        self.shapes = {name: shape_of(parameter) for name, parameter in model.parameters.items()}
        self.unconstrained_shapes = {
            name: unconstrained_shape(name, parameter) for name, parameter in model.parameters.items()
        }
        self.num_dimensions = sum(math.prod(shape) for shape in self.unconstrained_shapes.values())
        self.num_constrained = sum(math.prod(shape) for shape in self.shapes.values())
        self.coordinate_names = tuple(
            name + (f"[{','.join(map(str, index))}]" if shape else "")
            for name, shape in self.unconstrained_shapes.items()
            for index in np.ndindex(*shape)
        )
        self._bijections = {name: bijection(name, parameter) for name, parameter in model.parameters.items()}

    def constrain(self, flat: Array) -> tuple[ConstrainedParameters, Array]:
        """Map coordinates to parameters.

        Parameters
        ----------
        flat : float array (num_dimensions,)
            Unconstrained coordinates of one chain.

        Returns
        -------
        params : dict of array
            Values on their supports, shaped as `shapes`.
        log_abs_det_jacobian : float scalar
            Logarithm of how much the map stretches volume; added to the density of `params` it gives the density
            of `flat`.
        """
        params: ConstrainedParameters = {}
        log_abs_det = jnp.zeros((), dtype=flat.dtype)
        offset = 0
        for name, shape in self.unconstrained_shapes.items():
            inner = flat[offset : offset + math.prod(shape)].reshape(shape)
            params[name], log_abs_det_of_one = self.constrain_one(name, inner)
            log_abs_det = log_abs_det + log_abs_det_of_one
            offset += math.prod(shape)
        return params, log_abs_det

    def constrain_one(self, name: str, inner: Array) -> tuple[Any, Array]:
        """Map one parameter's coordinates, shaped as `unconstrained_shapes[name]`, to its value and log-determinant."""
        transform = self._bijections[name]
        value, intermediates = transform.call_with_intermediates(inner)
        return value, jnp.sum(transform.log_abs_det_jacobian(inner, value, intermediates))

    def unconstrain(self, params: ConstrainedParameters) -> Array:
        """Map parameters to coordinates; the inverse of `constrain`.

        Parameters
        ----------
        params : mapping of array
            A value inside its support for every parameter. On the boundary coordinates are infinite.

        Returns
        -------
        flat : float array (num_dimensions,)

        Raises
        ------
        ModelError
            If a parameter is left out or has another shape.
        """
        return jnp.concatenate([self.unconstrain_one(name, params.get(name)).reshape(-1) for name in self.shapes])

    def unconstrain_one(self, name: str, value: Any) -> Array:
        """Map one parameter's value to its coordinates, shaped as `unconstrained_shapes[name]`.

        Raises
        ------
        ModelError
            If the value is None or has another shape.
        """
        if value is None or jnp.shape(value) != self.shapes[name]:
            given = "nothing" if value is None else f"an array of shape {jnp.shape(value)}"
            raise ModelError(f"Parameter `{name}` was given {given}; a value has the shape {self.shapes[name]}.")
        inner: Array = self._bijections[name].inv(jnp.asarray(value, dtype=jnp.result_type(float)))
        return inner
