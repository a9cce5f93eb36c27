"""Which samplers a model can be used with, and which one it gets where none was chosen."""

from distmc.climbs import Climb
from distmc.errors import SpecError
from distmc.model.model import Model
from distmc.model.subject import Note, Subject
from distmc.samplers import LAPS, RWMH, WITHOUT_GRADIENT, ChEES, Sampler
from distmc.spec import RunSpec

# What its docstring asks for: unadjusted steps are tuned from all chains after every one of them.
_FEWEST_CHAINS_OF_LAPS = 16


def default_sampler(model: Model) -> Sampler:
    """Return the sampler for a model where none was chosen: ChEES, or RWMH for a model without a gradient."""
    return ChEES() if getattr(model, "is_differentiable", True) else RWMH()


def check_sampler(subject: Subject) -> list[Note]:
    """Refuse a sampler that follows gradients for a model without one; warn of one that has too few chains."""
    sampler = subject.spec.sampler
    name = "distmc.optimize" if isinstance(sampler, Climb) else type(sampler).__name__
    if not isinstance(sampler, WITHOUT_GRADIENT):
        if not subject.model.is_differentiable:
            others = " or ".join(f"`distmc.{kind.__name__}()`" for kind in WITHOUT_GRADIENT)
            raise SpecError(
                f"`{name}` follows the gradient of the log-density, but the model says `is_differentiable=False`. "
                f"Sample it with {others}, which need none."
            )
        return _check_number_of_chains(subject.spec) or [("ok", f"{name}, which follows the gradient.")]
    if subject.model.is_differentiable:
        advice = "The model has one; a sampler that follows it, such as ChEES, usually needs far fewer evaluations."
        return [("note", f"{name}, which needs no gradient. {advice}")]
    return [("ok", f"{name}, which needs no gradient.")]


def _check_number_of_chains(spec: RunSpec) -> list[Note]:
    if not isinstance(spec.sampler, LAPS) or spec.num_chains >= _FEWEST_CHAINS_OF_LAPS:
        return []
    words = (
        f"`num_chains={spec.num_chains}` with LAPS: it estimates what its unadjusted steps need from all chains after "
        f"every step, which takes {_FEWEST_CHAINS_OF_LAPS} or more, better 64. Its draws come from adjusted steps all "
        "the same, but chains may not have arrived when warm-up ends. Give more chains, or another sampler, such as "
        "`distmc.ChEES()`."
    )
    return [("warning", words)]
