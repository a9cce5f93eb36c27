"""From distmc's words to ArviZ's: the only place where names change.

On disk, draws live in the groups `posterior` and `sample_stats`, those of the warm-up in `warmup_posterior` and
`warmup_sample_stats`, with the dimensions ``(chain, draw, ...)``.

References
----------
.. [1] ArviZ, "InferenceData schema specification", https://python.arviz.org/en/latest/schema/schema.html
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from distmc.errors import ModelError
from distmc.types import NumpyArray, Phase

Label: TypeAlias = str | int | float

SAMPLE_DIMS = ("chain", "draw")
DRAWS, STATS, UNCONSTRAINED = "posterior", "sample_stats", "unconstrained_posterior"
POSITION = "position"

_STATISTICS = {"logdensity": "lp", "is_divergent": "diverging", "num_integration_steps": "n_steps"}
_NAME = re.compile(r"[^\W]([^/\x00-\x1f\x7f]*[^/\s\x00-\x1f\x7f])?")


def statistic_name(name: str) -> str:
    """Return ArviZ's name of a statistic; names that ArviZ shares stay."""
    return _STATISTICS.get(name, name)


def group_name(group: str, phase: Phase) -> str:
    """Return the group that holds `group` in a phase of the run."""
    return f"warmup_{group}" if phase == "warmup" else group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Shapes of the parameters and the names of their axes.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Shape of one draw of each constrained parameter.
    dims : mapping of str to sequence of str
        Names of the axes of a parameter; ``name_dim_0``, ``name_dim_1``, … where left out.
    coords : mapping of str to sequence of str, int or float
        Labels along a named axis; 0, 1, 2, … where left out.

    Raises
    ------
    ModelError
        If names, axes and labels do not fit together.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dims: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    coords: Mapping[str, Sequence[Label]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn sequences into tuples and refuse what cannot be stored."""
        object.__setattr__(self, "shapes", {name: tuple(map(int, shape)) for name, shape in self.shapes.items()})
        for what in ("dims", "coords"):
            _require_lists(what, getattr(self, what))
        object.__setattr__(self, "dims", {name: _texts(dims) for name, dims in self.dims.items()})
        object.__setattr__(self, "coords", {dim: _plain(labels) for dim, labels in self.coords.items()})
        self._check_names()
        self._check_dims()
        self._check_coords()

    def axes(self, name: str) -> tuple[str, ...]:
        """Return the names of the axes of one draw of a parameter."""
        return tuple(self.dims.get(name, ())) or tuple(f"{name}_dim_{axis}" for axis in range(len(self.shapes[name])))

    def sizes(self) -> dict[str, int]:
        """Return the length of every named axis."""
        return {dim: size for name, shape in self.shapes.items() for dim, size in zip(self.axes(name), shape)}  # noqa: B905

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    def _check_names(self) -> None:
        dims = {dim for name in self.shapes for dim in self.axes(name)}
        for name in self.shapes:
            if name in SAMPLE_DIMS or name in dims:
                raise ModelError(
                    f"The parameter `{name}` is called like a dimension of the stored draws; dimensions are named "
                    f"{', '.join(map(repr, SAMPLE_DIMS))} and as `dims` says. Rename the parameter or the dimension."
                )
        for name in (*self.shapes, *dims):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ModelError(
                    f"`{name!r}` cannot name a stored parameter or dimension: a name starts with a letter, a digit or "
                    "an underscore, has no slash or control character, and does not end in a space. Rename it."
                )

    def _check_dims(self) -> None:
        sizes: dict[str, int] = {}
        for name, dims in self.dims.items():
            if name not in self.shapes:
                raise ModelError(f"`dims` names `{name}`, which is none of the parameters: {', '.join(self.shapes)}.")
            if len(dims) != len(self.shapes[name]) or len(set(dims)) != len(dims) or set(dims) & set(SAMPLE_DIMS):
                raise ModelError(
                    f"`dims` gives `{name}` the axes {dims}; its shape {self.shapes[name]} needs "
                    f"{len(self.shapes[name])} different names, none of them {' or '.join(map(repr, SAMPLE_DIMS))}."
                )
        for name, shape in self.shapes.items():
            for dim, size in zip(self.axes(name), shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    raise ModelError(
                        f"The dimension `{dim}` has length {size} in `{name}` but {sizes[dim]} elsewhere; one name "
                        "stands for one length. Use two names."
                    )

    def _check_coords(self) -> None:
        sizes = self.sizes()
        for dim, labels in self.coords.items():
            kinds = {str if isinstance(label, str) else float for label in labels}
            if sizes.get(dim) != len(labels) or len(kinds) > 1:
                raise ModelError(
                    f"`coords` gives {len(labels)} labels for the dimension `{dim}`, whose length is "
                    f"{sizes.get(dim, 'unknown, as no parameter has it')}; give one label for each place, "
                    "all of them text or all of them numbers."
                )


def _require_lists(what: str, given: object) -> None:
    if not isinstance(given, Mapping):
        raise ModelError(f"`{what}={given!r}` must be a mapping from names to lists.")
    for name, values in given.items():
        if not isinstance(values, Iterable):
            raise ModelError(f"`{what}` gives `{name}` {values!r}; it must be a list.")


def _texts(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _plain(labels: Iterable[Any]) -> tuple[Label, ...]:
    """Return labels without NumPy's scalars, which JSON cannot hold."""
    return tuple(label.item() if isinstance(label, np.generic) else label for label in labels)


def to_groups(
    phase: Phase,
    draws: Mapping[str, NumpyArray],
    stats: Mapping[str, NumpyArray],
    unconstrained: NumpyArray | None,
) -> dict[str, NumpyArray]:
    """Return the arrays of a chunk by the path ``group/name`` under which they are stored."""
    arrays = {f"{group_name(DRAWS, phase)}/{name}": array for name, array in draws.items()}
    arrays |= {f"{group_name(STATS, phase)}/{statistic_name(name)}": array for name, array in stats.items()}
    if unconstrained is not None:
        arrays[f"{group_name(UNCONSTRAINED, phase)}/{POSITION}"] = unconstrained
    return arrays


def dimensions(layout: Layout, path: str) -> tuple[str, ...]:
    """Return the names of the axes of the array stored at ``group/name``."""
    group, name = path.split("/")
    if group.endswith(UNCONSTRAINED):
        return (*SAMPLE_DIMS, "dimension")
    return (*SAMPLE_DIMS, *layout.axes(name)) if group.removeprefix("warmup_") == DRAWS else SAMPLE_DIMS
