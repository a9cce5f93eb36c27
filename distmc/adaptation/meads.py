"""What tunes generalised Hamiltonian Monte Carlo: step size, metric, damping and the distance between draws.

Scales and step size are learned as for other kernels, from all chains. New is the damping, the rate at which momenta
forget: one over the standard deviation of the whitened positions along their leading principal component, so that a
momentum lasts about as long as a chain needs to cross the posterior where it is widest (MEADS: maximum-eigenvalue
adaptation of damping). Draws are set apart by a multiple of the same time.

As published MEADS never stops adapting. There chains are tuned by other chains' present positions, in folds, so
that no chain's parameters depend on itself. Here tuning ends before the draws begin, and all chains have one set of
parameters that rests on many steps of all of them.

References
----------
Hoffman, Sountsov (2022), Tuning-free generalized Hamiltonian Monte Carlo, sections 3 and 4. PMLR 151.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from distmc.adaptation.pooling import chains_in_company
from distmc.adaptation.principal import PrincipalComponent, add_step, no_component
from distmc.adaptation.warmup import STEPS_BEFORE_METRIC, Warmup, WarmupState, where
from distmc.kernels.ghmc import GHMCParameters
from distmc.types import Array


class MEADSState(NamedTuple):
    """All that has been learned.

    Attributes
    ----------
    warmup : WarmupState
        Step size and metric.
    widest : PrincipalComponent
        The direction that damping is made for, under the metric in force.
    """

    warmup: WarmupState
    widest: PrincipalComponent


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEADSWarmup:
    """How the parameters of generalised Hamiltonian Monte Carlo are tuned; an `Adaptation`.

    Attributes
    ----------
    warmup : Warmup
        Tunes step size and metric; has no trajectory.
    spacing : float
        Integration time between draws, in units of the time for which momenta last.
    max_integration_steps : int
        Upper limit between two draws.
    """

    warmup: Warmup
    spacing: float
    max_integration_steps: int

    def init(self, state: Any) -> MEADSState:
        """Return what is known before the first step."""
        return MEADSState(self.warmup.init(state), self._nothing())

    def parameters(self, learned: MEADSState, step: Array) -> GHMCParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        tuned = self.warmup.parameters(learned.warmup, step)
        # Before any scale is known momenta last, and a step takes, as many integration steps as a trajectory would.
        is_known = self.warmup.is_metric_known(step)
        steps_kept = jnp.where(is_known, jnp.sqrt(learned.widest.variance) / tuned.step_size, STEPS_BEFORE_METRIC)
        refreshment = -jnp.expm1(-2.0 / steps_kept)
        wanted = jnp.where(is_known, jnp.round(self.spacing * steps_kept), STEPS_BEFORE_METRIC)
        # Tuning needs no independent draws, and the direction that is widest on the way may not be so in the end.
        most = jnp.where(step < self.warmup.schedule.num_warmup, STEPS_BEFORE_METRIC, float(self.max_integration_steps))
        return GHMCParameters(
            step_size=tuned.step_size,
            refreshment=refreshment,
            drift=0.5 * refreshment,
            num_integration_steps=jnp.clip(wanted, 1.0, most).astype(jnp.int32),
            metric=tuned.metric,
        )

    def update(
        self, learned: MEADSState, step: Array, parameters: Any, before: Any, after: Any, info: Any
    ) -> MEADSState:
        """Learn from a step of warm-up."""
        weight = chains_in_company(after.logdensity, self.warmup.pooling)
        widest = add_step(
            learned.widest, after.position, weight, parameters.metric, self.warmup.target, self.warmup.pooling
        )
        is_new_metric = jnp.isin(step, np.asarray(self.warmup.schedule.window_ends))
        return MEADSState(
            warmup=self.warmup.update(learned.warmup, step, parameters, before, after, info),
            widest=where(is_new_metric, self._nothing(), widest),
        )

    def _nothing(self) -> PrincipalComponent:
        return no_component(self.warmup.metric.num_dimensions)
