"""Where a run can be taken up again, whatever was lost or damaged."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distmc.errors import DamagedFileError
from distmc.storage.chunks import numbered, read_verified
from distmc.storage.states import read_state
from distmc.types import Checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """Where a run goes on.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        The latest good state that no damaged chunk precedes; None: the beginning.
    step : int
        Steps that are on disk and undamaged; those beyond the checkpoint are repeated.
    problems : tuple of str
        Files that should have been there and good, but are not.
    """

    checkpoint: Checkpoint | None
    step: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """Tell the problems and what follows from them."""
        if self.checkpoint is None:
            where = "from its beginning, as no good state precedes the damage"
        else:
            where = f"from its state after chunk {self.checkpoint.chunk}, step {self.checkpoint.step}"
        return f"{' '.join(self.problems)} The run goes on {where}; what is repeated comes out with the same bits."


def recover(chunks: Path, states: Path) -> Recovery:
    """Find where a run goes on, reading and verifying every chunk.

    Parameters
    ----------
    chunks, states : Path
        Directories of the chunks and of the states.

    Raises
    ------
    RunDirectoryError
        If a file cannot be read: it may be whole, so nothing is concluded from it.
    """
    problems: list[str] = []
    ends = _good_chunks(chunks, problems)
    step = max(ends.values(), default=0)
    if not any(number in ends for number in numbered(states)) and len(ends) > 1:
        problems.append(f"`{states}` holds no state of a good chunk.")
    checkpoint = _latest_state(states, ends, problems)
    return Recovery(checkpoint=checkpoint, step=step, problems=tuple(problems))


def states_to_keep(numbers: Sequence[int]) -> set[int]:
    """Return which states to keep: of each power of two, the latest two that it divides.

    So the latest two stay, and older ones ever further apart: a dozen of 1,000. When a chunk is damaged, there is a
    state before it from which at most about four times as many chunks are repeated as have followed it.

    Parameters
    ----------
    numbers : sequence of int
        Numbers of the states that are there, ascending.
    """
    latest: dict[int, list[int]] = {}
    for number in numbers:
        power = 1
        while number % power == 0 and power <= max(number, 1):
            latest[power] = [*latest.get(power, []), number][-2:]
            power *= 2
    return set().union(*latest.values())


def _good_chunks(directory: Path, problems: list[str]) -> dict[int, int]:
    """Return the step at which each chunk ends, up to the first that is damaged or missing."""
    ends: dict[int, int] = {}
    step = 0
    for number, path in numbered(directory).items():
        try:
            header = read_verified(number, path)
        except DamagedFileError as error:
            problems.append(str(error))
            break
        if header.first_step != step:
            problems.append(
                f"`{path}` begins at step {header.first_step}, but the chunks before it end at step {step}: a chunk "
                "is missing."
            )
            break
        step += header.num_steps
        ends[number] = step
    return ends


def _latest_state(directory: Path, ends: dict[int, int], problems: list[str]) -> Checkpoint | None:
    for number, path in reversed(numbered(directory).items()):
        if number not in ends:
            continue
        try:
            state, facts = read_state(path)
            if (facts["chunk"], facts["step"]) == (number, ends[number]):
                return Checkpoint(chunk=number, step=ends[number], arrays=state)
            problems.append(f"`{path}` is not the state after chunk {number}.")
        except (DamagedFileError, KeyError) as error:
            problems.append(str(error))
    return None
