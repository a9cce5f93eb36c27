"""Model + blocks + mesh → one log-density of the position of all chains.

Rows enter only here. Each worker evaluates its own blocks at the same constrained parameters; values and
gradients of all chains travel as one flat array through one exact sum; priors, Jacobians and the way back to
unconstrained coordinates are replicated, in float64, after it, so that they are counted once.

In what type rows are evaluated, and what is done about rounding, is decided in `distmc.model.shared`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from distmc.data.blocks import BlockPlan, pack_blocks
from distmc.data.data import Data
from distmc.model.density import cast_floats, likelihood_dtype, log_prior_density, masked_contributions
from distmc.model.model import Model
from distmc.model.shared import contributions_and_gradient, sum_of_rows
from distmc.model.transforms import Unconstrainer
from distmc.parallel.canonical import isolated
from distmc.parallel.reduction import BlockSum
from distmc.parallel.tree import ReductionPlan
from distmc.spec import Precision
from distmc.types import Array, ConstrainedParameters, NumpyArray, PyTree


class Shard(NamedTuple):
    """A worker's part of the data, on the host or laid out over the mesh.

    Attributes
    ----------
    block_range : int32 array (1, 2)
        First block, and the one after the last.
    buckets : tuple of dict of array
        For each length bucket its variables as (blocks, rows_per_block, ...).
    """

    block_range: Any
    buckets: tuple[dict[str, Any], ...]

    @property
    def never(self) -> Array:
        """A bool scalar that is False, which no compiler can know; see `distmc.parallel.canonical`."""
        return jnp.asarray(self.block_range[0, 0] < 0)


def pack_shard(data: Data, blocks: BlockPlan, plan: ReductionPlan, rank: int, precision: Precision) -> Shard:
    """Return the rows of a worker on the host, filled up so that all workers' shards have one shape.

    Parameters
    ----------
    data, blocks : Data, BlockPlan
        The rows and their division.
    plan : ReductionPlan
        Which blocks belong to the worker.
    rank : int
        The worker.
    precision : {"mixed", "float64"}
        Decides the type of floating-point rows.

    Returns
    -------
    shard : Shard of NumPy array
        Every variable has ``max_blocks_per_worker`` blocks; those past the worker's range are never evaluated.
    """
    start, stop = plan.block_range(rank)
    missing = plan.max_blocks_per_worker - (stop - start)

    def fill_up(variable: NumpyArray) -> NumpyArray:
        return np.pad(variable, [(0, missing)] + [(0, 0)] * (variable.ndim - 1)) if missing else variable

    dtype = likelihood_dtype(precision)
    buckets = tuple(
        {name: fill_up(variable) for name, variable in cast_floats(bucket, dtype).items()}
        for bucket in pack_blocks(data, blocks, start, stop)
    )
    return Shard(np.array([[start, stop]], dtype=np.int32), buckets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardedLogDensity:
    """The log-density of all chains over all rows, to be called inside `jax.shard_map`.

    Attributes
    ----------
    model : Model
        Priors and the log-likelihood of rows.
    unconstrainer : Unconstrainer
        Its coordinates.
    block_sum : BlockSum
        Exact sum over the blocks of all workers.
    precision : {"mixed", "float64"}
        Type in which rows are evaluated.
    """

    model: Model
    unconstrainer: Unconstrainer
    block_sum: BlockSum
    precision: Precision

    def logdensity_and_grad(self, position: Array, shard: Shard, constants: Mapping[str, Any]) -> tuple[Array, Array]:
        """Evaluate log-density and gradient of all chains.

        Parameters
        ----------
        position : float64 array (num_chains, num_dimensions)
            Unconstrained, the same on every worker.
        shard : Shard
            This worker's rows.
        constants : mapping of array
            What every row needs.

        Returns
        -------
        logdensity : float64 array (num_chains,)
        logdensity_grad : float64 array (num_chains, num_dimensions)
            Both the same on every worker.

        Notes
        -----
        Communication: one sum of ``num_chains * (1 + num_constrained)`` float64.
        Invariance: that of `block_sum`; all else is replicated.
        """

        @isolated(shard.never)
        def finish(position: Array, loglikelihood: Array, grad: Array) -> tuple[Array, Array]:
            (params, logprior), pull_back = jax.vjp(jax.vmap(self._constrain), position)
            (logdensity_grad,) = pull_back((_unravel_chains(grad, params), jnp.ones_like(logprior)))
            return logprior + loglikelihood, logdensity_grad

        params, _ = jax.vmap(self._constrain)(position)
        loglikelihood, grad = self._sum_over_rows(params, shard, constants)
        result: tuple[Array, Array] = finish(position, loglikelihood, grad)
        return result

    def logdensity(self, position: Array, shard: Shard, constants: Mapping[str, Any]) -> Array:
        """Evaluate the log-density of all chains without its gradient.

        Takes what `logdensity_and_grad` takes. Without the gradient nothing makes up for what mixed precision rounds,
        so that samplers which need none use float64; see `RunSpec.precision_in_force`.

        Returns
        -------
        logdensity : float64 array (num_chains,)
            The same on every worker.

        Notes
        -----
        Communication: one sum of ``num_chains`` float64.
        Invariance: that of `block_sum`; all else is replicated.
        """

        @isolated(shard.never)
        def finish(position: Array, loglikelihood: Array) -> Array:
            _, logprior = jax.vmap(self._constrain)(position)
            return logprior + loglikelihood

        params, _ = jax.vmap(self._constrain)(position)
        params = cast_floats(params, likelihood_dtype(self.precision))
        loglikelihood = self._sum_over_blocks(self._block_logdensity, position.shape[:1], params, shard, constants)
        result: Array = finish(position, loglikelihood)
        return result

    def _constrain(self, flat: Array) -> tuple[ConstrainedParameters, Array]:
        """Return one chain's parameters, and the log-density of priors and Jacobian."""
        params, log_abs_det_jacobian = self.unconstrainer.constrain(flat)
        return params, log_prior_density(self.model, params) + log_abs_det_jacobian

    def _sum_over_rows(
        self, params: ConstrainedParameters, shard: Shard, constants: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        """Sum log-likelihood (num_chains,) and gradient (num_chains, num_constrained) over the rows of all workers."""
        num_chains = jax.tree.leaves(params)[0].shape[0]
        shape = (num_chains, 1 + self.unconstrainer.num_constrained)
        total = self._sum_over_blocks(self._block_value, shape, params, shard, constants)
        return total[:, 0], total[:, 1:]

    def _sum_over_blocks(
        self,
        of_block: Callable[..., Array],
        shape: tuple[int, ...],
        params: ConstrainedParameters,
        shard: Shard,
        constants: Mapping[str, Any],
    ) -> Array:
        """Sum what `of_block` gives, float64 of `shape`, over the blocks of all workers."""
        # A block's arithmetic must not depend on how many blocks a worker holds: the compiler would merge it with how
        # the rows are found among others, and with what stands around the loop.
        apart = isolated(shard.never)(of_block)

        def block_value(place: Array) -> Array:
            block = jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, place, keepdims=False), shard.buckets)
            value: Array = apart(params, block, constants)
            return value

        return self.block_sum(block_value, shape, shard.block_range[0])

    def _block_value(
        self, params: ConstrainedParameters, block: tuple[dict[str, Array], ...], constants: Mapping[str, Any]
    ) -> Array:
        """Log-likelihood and gradient of one block, (num_chains, 1 + num_constrained)."""
        contributions = functools.partial(masked_contributions, self.model)

        def bucket_value(params: ConstrainedParameters, bucket: dict[str, Array]) -> Array:
            _, value, grad = contributions_and_gradient(contributions, params, bucket, constants, self.precision)
            return jnp.concatenate([value[None], ravel_pytree(grad)[0]])

        total = jnp.zeros((), jnp.float64)
        for bucket in block:
            total = total + jax.vmap(bucket_value, in_axes=(0, None))(params, bucket)
        return total

    def _block_logdensity(
        self, params: ConstrainedParameters, block: tuple[dict[str, Array], ...], constants: Mapping[str, Any]
    ) -> Array:
        """Log-likelihood of one block, (num_chains,)."""
        contributions = functools.partial(masked_contributions, self.model)
        total = jnp.zeros((), jnp.float64)
        for bucket in block:
            of_chain = functools.partial(sum_of_rows, contributions, rows=bucket, constants=constants)
            total = total + jax.vmap(of_chain)(params)
        return total


def _unravel_chains(flat: Array, like: PyTree) -> PyTree:
    """Return each chain's parameters, shaped as `like`, from (num_chains, num_constrained)."""
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], like))[1]
    return jax.vmap(unravel)(flat)
