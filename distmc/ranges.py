"""Checks of the settings that a person gives: what was given, and what is needed."""

from distmc.errors import SpecError


def require_count(owner: object, name: str, *, minimum: int, why: str = "") -> None:
    """Refuse a setting that is not a whole number of at least `minimum`."""
    value = getattr(owner, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        reason = f" ({why})" if why else ""
        raise SpecError(f"`{name}={value!r}` must be a whole number of at least {minimum}{reason}.")


def require_positive(owner: object, name: str) -> None:
    """Refuse a setting that is not a positive, finite number."""
    value = getattr(owner, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise SpecError(f"`{name}={value!r}` must be a positive, finite number.")


def require_number(owner: object, name: str) -> None:
    """Refuse a setting that is not a number."""
    value = getattr(owner, name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SpecError(f"`{name}={value!r}` must be a number.")


def require_choice(owner: object, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices."""
    value = getattr(owner, name)
    if value not in choices:
        raise SpecError(f"`{name}={value!r}` is not one of {', '.join(repr(choice) for choice in choices)}.")
