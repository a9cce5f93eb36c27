"""The mode of a posterior, found over the same sharded log-density that is sampled, and what follows from it.

A climb is run like a sampler: the same workers, the same sum over rows, the same bits on any number of them. Several
starts climb in lockstep, as chains do. The Hessian is taken from gradients at two points for each coordinate.

References
----------
Nocedal, Wright (2006), Numerical Optimization, chapters 7 and 8.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import scipy.linalg

from distmc.climbs import LBFGS, Points
from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.errors import SpecError
from distmc.model.model import Model
from distmc.model.preflight import cheap_checks
from distmc.model.transforms import Unconstrainer
from distmc.orchestration import session
from distmc.orchestration.events import OnEvent
from distmc.progress import ClimbTally, display
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.sampling.worker import WorkerTask, require_enough_blocks
from distmc.spec import Local, Placement, Precision, RunSpec
from distmc.types import NumpyArray

_MOST_NEWTON_STEPS = 10
# The cube root of the rounding error balances it against the third derivative in a central difference.
_RELATIVE_STEP = float(np.finfo(np.float64).eps ** (1.0 / 3.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
    """A mode of the posterior in unconstrained coordinates, Jacobian included: the density that is sampled.

    Attributes
    ----------
    params : dict of array
        Parameters at the mode, on their supports.
    position : float64 array (num_dimensions,)
        The same in unconstrained coordinates.
    logdensity : float
        Log-density there, up to the posterior's constant.
    is_converged : bool
        Whether less than the tolerance was left to gain: by the Hessian, or without it by the climb's approximation,
        which may know nothing of directions along which the log-density hardly changes.
    num_evaluations : int
        Of log-density and gradient, by the start that climbed highest.
    logdensity_of_starts : float64 array (num_starts,)
        Where each start has ended; starts that differ by nats have found different modes.
    hessian : float64 array (num_dimensions, num_dimensions) or None
        Second derivatives of the log-density at the mode, if asked for.
    model : Model
        Whose mode it is.
    """

    params: dict[str, NumpyArray]
    position: NumpyArray
    logdensity: float
    is_converged: bool
    num_evaluations: int
    logdensity_of_starts: NumpyArray
    hessian: NumpyArray | None
    model: Model = dataclasses.field(repr=False)

    @property
    def covariance(self) -> NumpyArray:
        """Covariance of the Laplace approximation, float64 (num_dimensions, num_dimensions).

        Raises
        ------
        SpecError
            If the Hessian was not asked for, or is not that of a mode.
        """
        inverse: NumpyArray = scipy.linalg.cho_solve((self._precision_factor(), True), np.eye(len(self.position)))
        return inverse

    def draw(self, num_draws: int, *, seed: int = 0, spread: float = 1.0) -> dict[str, NumpyArray]:
        """Draw parameters from the Laplace approximation, the normal distribution with the mode's curvature.

        Parameters
        ----------
        num_draws : int
        seed : int
        spread : float
            Standard deviations are multiplied by it; 2 makes good starting values for chains:
            ``distmc.sample(model, data, num_chains=32, initial=optimum.draw(32, spread=2.0))``.

        Returns
        -------
        params : dict of array, each (num_draws, ...)
            On their supports.

        Raises
        ------
        SpecError
            If the Hessian was not asked for, or is not that of a mode.
        """
        noise = np.random.default_rng(seed).normal(size=(len(self.position), num_draws))
        offsets = scipy.linalg.solve_triangular(self._precision_factor(), noise, lower=True, trans="T").T
        return _constrained(self.model, self.position + spread * offsets)

    def _precision_factor(self) -> NumpyArray:
        if self.hessian is None:
            raise SpecError("The Hessian at the mode was not asked for; call `distmc.optimize` with `hessian=True`.")
        try:
            factor: NumpyArray = scipy.linalg.cholesky(-self.hessian, lower=True)
        except scipy.linalg.LinAlgError as error:
            raise SpecError(
                "The Hessian is not negative definite: this is no mode, or one with a flat direction. Give proper "
                "priors to all parameters, a smaller `tolerance`, or more `max_evaluations`."
            ) from error
        return factor


def optimize(
    model: Model,
    data: Data | Mapping[str, Any],
    *,
    num_starts: int = 4,
    max_evaluations: int = 1000,
    tolerance: float = 1e-6,
    hessian: bool = False,
    seed: int = 0,
    on: Placement | None = None,
    precision: Precision = "float64",
    num_blocks: int | None = None,
    initial: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Optimum:
    """Find a mode of the posterior.

    Parameters
    ----------
    model : Model
        Parameters with priors, and the log-likelihood of rows.
    data : Data or mapping of array
        The rows; a mapping means that all of it is rows.
    num_starts : int
        Starts that climb in lockstep; the highest wins.
    max_evaluations : int
        Evaluations of log-density and gradient of all starts after which the climb ends.
    tolerance : float
        Gain in nats: a start ends where its quadratic approximation promises less.
    hessian : bool
        Take second derivatives at the mode, for `Optimum.covariance` and `Optimum.draw`, and walk the last way to it
        by Newton's steps. Each costs two gradients for every coordinate, all evaluated at once.
    seed, on, precision, num_blocks, initial, progress
        As for `sample`, `num_starts` in place of chains. The default precision is float64, because a climb ends where
        rounding hides what is left to gain, and takes few evaluations.

    Returns
    -------
    optimum : Optimum
        The same, to the bit, on any number of workers.

    Raises
    ------
    InputError
        If something given cannot be used; nothing has been started.
    CapacityError, WorkerError, Interrupted
        See `distmc.errors`.

    Warns
    -----
    UserWarning
        If something will make it slow or imprecise, as `check` says.
    """
    on, data = on or Local(), Data.coerce(data)
    spec = RunSpec(
        sampler=LBFGS(tolerance=tolerance),
        num_chains=num_starts,
        num_warmup=0,
        num_draws=max_evaluations,
        seed=seed,
        precision=precision,
        num_blocks=num_blocks,
    )
    checked = cheap_checks(model, data, spec, initial=initial)
    for warning in checked.warnings:
        warnings.warn(warning, stacklevel=2)
    blocks = plan_blocks(data, num_blocks)
    require_enough_blocks(on.fewest_workers, blocks.num_blocks)
    spec = dataclasses.replace(spec, num_blocks=blocks.num_blocks)
    end = _final_state(WorkerTask(spec=spec, model=model, data=data, start=checked.start), on, progress)
    best = int(np.argmax(end["kernel.logdensity"]))
    mode = _Point(
        position=end["kernel.position"][best],
        logdensity=float(end["kernel.logdensity"][best]),
        expected_gain=float(end["kernel.expected_gain"][best]),
        hessian=None,
    )
    if hessian:
        mode = _polish(spec, model, data, on, mode.position, tolerance, progress)
    return Optimum(
        params={name: value[0] for name, value in _constrained(model, mode.position[None]).items()},
        position=mode.position,
        logdensity=mode.logdensity,
        is_converged=mode.expected_gain < tolerance,
        num_evaluations=int(end["kernel.num_evaluations"][best]),
        logdensity_of_starts=end["kernel.logdensity"],
        hessian=mode.hessian,
        model=model,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point:
    """What is known about one position; the gain is infinite where the log-density curves upwards."""

    position: NumpyArray
    logdensity: float
    expected_gain: float
    hessian: NumpyArray | None
    newton_step: NumpyArray | None = None


def _polish(
    spec: RunSpec, model: Model, data: Data, on: Placement, position: NumpyArray, tolerance: float, progress: bool
) -> _Point:
    """Go on from `position` with Newton's steps, at most a few, until the true curvature promises no gain."""

    def examine(position: NumpyArray) -> _Point:
        steps = np.diag(_RELATIVE_STEP * (1.0 + np.abs(position)))
        start = np.concatenate([position[None], position + steps, position - steps])
        points = dataclasses.replace(spec, sampler=Points(), num_chains=len(start), num_draws=1, precision="float64")
        end = _final_state(WorkerTask(spec=points, model=model, data=data, start=start), on, progress)
        logdensity, grad = float(end["kernel.logdensity"][0]), end["kernel.logdensity_grad"][0]
        above, below = np.split(end["kernel.logdensity_grad"][1:], 2)
        differences = (above - below) / (2.0 * np.diag(steps)[:, None])
        hessian = 0.5 * (differences + differences.T)
        try:
            newton_step = scipy.linalg.cho_solve((scipy.linalg.cholesky(-hessian, lower=True), True), grad)
        except scipy.linalg.LinAlgError:
            return _Point(position=position, logdensity=logdensity, expected_gain=np.inf, hessian=hessian)
        gain = float(0.5 * grad @ newton_step)
        return _Point(
            position=position, logdensity=logdensity, expected_gain=gain, hessian=hessian, newton_step=newton_step
        )

    best, length = examine(position), 1.0
    for _ in range(_MOST_NEWTON_STEPS):
        if best.newton_step is None or best.expected_gain < tolerance:
            break
        tried = examine(best.position + length * best.newton_step)
        best, length = (tried, 1.0) if tried.logdensity > best.logdensity else (best, 0.3 * length)
    return best


def _final_state(task: WorkerTask, on: Placement, progress: bool) -> dict[str, NumpyArray]:
    """Run `task` without a run directory and return the state after its last chunk."""
    last: dict[str, NumpyArray] = {}

    def keep(report: ChunkReport, arrays: ChunkArrays) -> None:
        last.update(arrays.state)

    def go(on_event: OnEvent | None) -> None:
        session.run(task, on, commit=keep, on_event=on_event)

    if progress:
        with display(ClimbTally(task.spec)) as show:
            go(show)
    else:
        go(None)
    return last


def _constrained(model: Model, positions: NumpyArray) -> dict[str, NumpyArray]:
    with jax.enable_x64(True):
        params = jax.jit(jax.vmap(lambda flat: Unconstrainer(model).constrain(flat)[0]))(positions)
        return {name: np.asarray(value) for name, value in params.items()}
