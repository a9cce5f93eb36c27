"""Checks of the settings that a person gives: what was given, and what is needed.

Numbers of NumPy are as good as Python's own; each check replaces them by these, which JSON can write.
"""

import math
import numbers

from distmc.errors import SpecError


def require_count(owner: object, name: str, *, minimum: int, why: str = "") -> None:
    """Refuse a setting that is not a whole number of at least `minimum`."""
    value = getattr(owner, name)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < minimum:
        reason = f" ({why})" if why else ""
        raise SpecError(f"`{name}={value!r}` must be a whole number of at least {minimum}{reason}.")
    object.__setattr__(owner, name, int(value))


def require_positive(owner: object, name: str) -> None:
    """Refuse a setting that is not a positive, finite number."""
    value = _real(getattr(owner, name))
    if value is None or not 0.0 < value < math.inf:
        raise SpecError(f"`{name}={getattr(owner, name)!r}` must be a positive, finite number.")
    object.__setattr__(owner, name, value)


def require_number(owner: object, name: str) -> None:
    """Refuse a setting that is not a number."""
    value = _real(getattr(owner, name))
    if value is None:
        raise SpecError(f"`{name}={getattr(owner, name)!r}` must be a number.")
    object.__setattr__(owner, name, value)


def require_flag(owner: object, name: str) -> None:
    """Refuse a setting that is neither true nor false."""
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise SpecError(f"`{name}={value!r}` must be True or False.")


def require_choice(owner: object, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices."""
    value = getattr(owner, name)
    if value not in choices:
        raise SpecError(f"`{name}={value!r}` is not one of {', '.join(repr(choice) for choice in choices)}.")


def _real(value: object) -> float | None:
    """Return a real number as Python's, one beyond its range as infinity, anything else as None."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
