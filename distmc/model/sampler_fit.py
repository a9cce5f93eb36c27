"""Which samplers a model can be used with, and which one it gets where none was chosen."""

from distmc.climbs import Climb
from distmc.errors import SpecError
from distmc.model.model import Model
from distmc.model.subject import Note, Subject
from distmc.samplers import RWMH, WITHOUT_GRADIENT, ChEES, Sampler


def default_sampler(model: Model) -> Sampler:
    """Return the sampler for a model where none was chosen: ChEES, or RWMH for a model without a gradient."""
    return ChEES() if getattr(model, "is_differentiable", True) else RWMH()


def check_sampler(subject: Subject) -> list[Note]:
    """Refuse a sampler that follows gradients for a model without one."""
    sampler = subject.spec.sampler
    name = "distmc.optimize" if isinstance(sampler, Climb) else type(sampler).__name__
    if not isinstance(sampler, WITHOUT_GRADIENT):
        if not subject.model.is_differentiable:
            others = " or ".join(f"`distmc.{kind.__name__}()`" for kind in WITHOUT_GRADIENT)
            raise SpecError(
                f"`{name}` follows the gradient of the log-density, but the model says `is_differentiable=False`. "
                f"Sample it with {others}, which need none."
            )
        return [("ok", f"{name}, which follows the gradient.")]
    if subject.model.is_differentiable:
        advice = "The model has one; a sampler that follows it, such as ChEES, usually needs far fewer evaluations."
        return [("note", f"{name}, which needs no gradient. {advice}")]
    return [("ok", f"{name}, which needs no gradient.")]
