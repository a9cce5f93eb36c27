"""The checks that look at every row, at one position, where the others look at some rows at several positions."""

import jax.numpy as jnp
import numpy as np

from distmc.errors import StartError
from distmc.model.probes import check_rows_add_up
from distmc.model.start import FLOAT64_HELPS
from distmc.model.subject import Note, Subject

_MOST_ROWS_NAMED = 4
# Of contributions with float32 digits, relative and absolute.
_TOLERANCE = 1e-3


def check_every_row(subject: Subject) -> list[Note]:
    """Refuse rows that are not finite where a chain starts.

    A row that is impossible whatever the parameters are would end the run when its workers are up.
    """
    values, chain = subject.of_every_row, subject.first_chain
    bad = np.flatnonzero(~np.isfinite(values)).tolist()
    if not bad:
        return [("ok", f"All {len(values)} rows are finite where chain {chain} starts.")]
    named = ", ".join(map(str, bad[:_MOST_ROWS_NAMED])) + ", …" * (len(bad) > _MOST_ROWS_NAMED)
    advice = (
        "Correct rows that are impossible whatever the parameters are, leave them out, or mark what is missing in "
        "them; otherwise give `initial` values at which all rows are possible, or a prior that keeps to them."
    )
    raise StartError(
        f"`log_likelihood` is {values[bad[0]]} for row {bad[0]} where chain {chain} starts, at "
        f"{subject.describe(subject.starts[chain])}; no chain can start where a row is not finite, and {len(bad)} of "
        f"{len(values)} rows are not there: {named}. {FLOAT64_HELPS if _float64_helps(subject, bad[0]) else advice}"
    )


def screen_rows(subject: Subject) -> list[Note]:
    """Refuse what `check_rows_add_up` does, where two evaluations that are there anyway say that it should be asked."""
    among_some = subject.at_starts.contributions[subject.first_chain]
    among_others = subject.of_every_row[subject.row_indices]
    if np.allclose(among_some, among_others, rtol=_TOLERANCE, atol=_TOLERANCE):
        return []
    return check_rows_add_up(subject)


def _float64_helps(subject: Subject, row: int) -> bool:
    if subject.spec.precision_in_force == "float64":
        return False
    flat, inputs = jnp.asarray(subject.starts[subject.first_chain]), subject.inputs("float64", slice(row, row + 1))
    return bool(np.isfinite(subject.contributions_of("float64", flat, *inputs)).all())
