"""The demonstration: real words, two Ray workers, and a picture of what was found."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from distmc.spec import Placement, RunSpec

if TYPE_CHECKING:
    from distmc.types import NumpyArray
    from distmc.zoo.word_states import HiddenState

NUM_WORDS = 50_000
NUM_WORKERS = 2
NUM_CHAINS = 32
NUM_WARMUP = 200
NUM_DRAWS = 300
PATH = "runs/words"

_COLOURS = ("cyan", "magenta", "yellow", "green")
_BAR_WIDTH = 8
_CELL_WIDTH = 19


def run(num_words: int, spec: RunSpec, on: Placement, path: str, console: Console | None = None) -> Path:
    """Sample the model of words and show what its hidden states are.

    Parameters
    ----------
    num_words : int
        Words of the CMU Pronouncing Dictionary.
    spec : RunSpec
        Chains, steps and seed.
    on : Local or Ray
        Where to compute.
    path : str
        Directory of the run; if it is taken, the next free name is used.
    console : rich.console.Console, optional
        Where to show the result; the output stream if not given.

    Returns
    -------
    path : Path
        The directory that was used.

    Raises
    ------
    DistmcError
        As `distmc.sample` does.
    """
    from distmc.render import show_run
    from distmc.run import Run
    from distmc.storage import doubt_about
    from distmc.zoo import words

    console = console or Console()
    began = time.monotonic()
    data = words.load_words(num_words)
    directory = free_path(path)
    if str(directory) != path:
        console.print(f"`{path}` is taken, so this run goes to `{directory}`.", soft_wrap=True, highlight=False)
    if doubt := doubt_about(directory):
        console.print(f"Warning: {doubt}", style="yellow", soft_wrap=True, highlight=False)
    workers = f"{on.most_workers} worker{'s' * (on.most_workers != 1)}"
    console.print(
        f"{num_words:,} words as sequences of sounds, {spec.num_chains} chains on {workers}: two hidden states are to "
        "find out what distinguishes the sounds. Nothing says what a vowel is.",
        highlight=False,
    )
    run = Run.prepare(
        words.build_model(),
        data,
        spec,
        on,
        initial=words.starting_values(spec.num_chains, spec.seed),
        dims=words.DIMS,
        coords=words.COORDS,
        source={"words": str(num_words)},
    )
    for warning in run.warnings:
        console.print(f"Warning: {warning}", style="yellow", soft_wrap=True, highlight=False)
    file = run.execute(directory)
    show_states(directory, data.rows["length"], console)
    show_run(directory, file, seconds=time.monotonic() - began, console=console)
    return directory


def free_path(path: str) -> Path:
    """Return `path`, or with the first number from 2 on behind it under which there is nothing yet."""
    candidate, number = Path(path).expanduser(), 2
    while os.path.lexists(candidate):
        candidate = Path(f"{path}-{number}").expanduser()
        number += 1
    return candidate


def show_states(path: Path, lengths: "NumpyArray", console: Console | None = None) -> None:
    """Show which phones each hidden state speaks, from the draws of a run."""
    console = console or Console()
    from distmc.storage import open_run
    from distmc.zoo.word_states import compare_with_phonetics, hidden_states

    with open_run(path) as tree:
        posterior = tree["posterior"].to_dataset().stack(sample=("chain", "draw")).transpose("sample", ...)
        draws = {name: posterior[name].values for name in ("begins_in_0", "transition", "emission")}
    states = hidden_states(draws, lengths)
    console.print()
    for state in states:
        console.print(picture(state, console), soft_wrap=True)
    console.print(compare_with_phonetics(states), highlight=False)


def picture(state: "HiddenState", console: Console) -> Text:
    """Draw a state's phones, each with a bar for the probability that it was this state."""
    colour = _COLOURS[state.number % len(_COLOURS)]
    full = "█" if console.encoding.lower().startswith("utf") else "#"
    text = Text()
    text.append(f"State {state.number}", style=f"bold {colour}")
    text.append(f" speaks {state.share:.0%} of all sounds; these {len(state.phones)} are its own, surest first:\n")
    per_row = max(1, (console.width - 2) // _CELL_WIDTH)
    for index, (phone, probability) in enumerate(state.phones):
        text.append(f"  {phone:<3}", style=f"bold {colour}")
        text.append(f"{full * round(_BAR_WIDTH * probability):<{_BAR_WIDTH}}", style=colour)
        text.append(f" {probability:.2f} ")
        if (index + 1) % per_row == 0 and index + 1 < len(state.phones):
            text.append("\n")
    return text.append("\n")
