"""Draw the states of a run: `python docs/images/draw_states.py` writes states.svg beside this file."""

import itertools
from pathlib import Path

from distmc.orchestration.states import State

LEFT, MIDDLE, RIGHT = 145, 425, 720
WIDTH, HEIGHT, TOP, PITCH = 230, 40, 46, 64
MAIN = (
    State.PENDING,
    State.ACQUIRING,
    State.MEETING,
    State.FORMING,
    State.LOADING,
    State.COMPILING,
    State.STARTING,
    State.RUNNING,
    State.SAVING,
    State.DONE,
)
# Middle of each box: column in pixels, row.
PLACES = {state: (MIDDLE, row) for row, state in enumerate(MAIN)} | {
    State.REGROUPING: (LEFT, 7),
    State.TRIAGE: (RIGHT, 3),
    State.FAILED: (RIGHT, 5),
    State.STOPPING: (RIGHT, 8),
    State.CANCELLED: (RIGHT, 9),
}
AT_WORK = (*MAIN[2:9], State.REGROUPING)
COLOURS = {State.DONE: "#5b9a5b", State.FAILED: "#d98c3f", State.CANCELLED: "#9a6fb0"}
NEVER_LEFT = frozenset(COLOURS)

# Who may follow whom; the frame stands for all states at work.
FOLLOWS = {
    *itertools.pairwise(MAIN),
    *((state, State.TRIAGE) for state in AT_WORK),
    (State.RUNNING, State.REGROUPING),
    (State.REGROUPING, State.ACQUIRING),
    (State.TRIAGE, State.ACQUIRING),
    (State.TRIAGE, State.FAILED),
    (State.ACQUIRING, State.FAILED),
    *((state, State.STOPPING) for state in State if state not in {*NEVER_LEFT, State.STOPPING}),
    (State.STOPPING, State.CANCELLED),
    # The last chunk of all may get to the disk there.
    (State.STOPPING, State.DONE),
    (State.TRIAGE, State.DONE),
}


def row_y(row: float) -> float:
    """Return the middle of a row in pixels."""
    return TOP + PITCH * row


def box(state: State) -> list[str]:
    """Return a state: its name in the code, and what it means."""
    x, y = PLACES[state][0], row_y(PLACES[state][1])
    colour = COLOURS.get(state, "#4a6fa5")
    return [
        f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff" '
        f'stroke="{colour}" stroke-width="2"/>',
        f'<text x="{x}" y="{y - 4:g}" text-anchor="middle" font-size="11" fill="{colour}">{state.name}</text>',
        f'<text x="{x}" y="{y + 12:g}" text-anchor="middle" font-size="13">{state.value}</text>',
    ]


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """Return an arrow along `points`."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="#444"{dash} marker-end="url(#head)"/>'


def words(x: float, y: float, text: str, anchor: str = "middle") -> str:
    """Return a few words beside an arrow."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="12" fill="#555">{text}</text>'


def frame() -> list[str]:
    """Return the frame around the states in which workers have something to do."""
    left, right = LEFT - WIDTH / 2 - 15, MIDDLE + WIDTH / 2 + 15
    top, bottom = row_y(2) - 34, row_y(8) + 32
    return [
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" rx="10" fill="#f4f6fa" '
        'stroke="#bbb"/>',
        words(LEFT + 12, top + 20, "a generation at work", "start"),
    ]


def arrows() -> list[str]:
    """Return all arrows with their words."""
    half_width, half_height, edge = WIDTH / 2, HEIGHT / 2 + 2, MIDDLE + WIDTH / 2 + 15
    down = [
        arrow((x, row_y(row) + half_height - 2), (x, row_y(row + 1) - half_height))
        for x, row in [*((MIDDLE, row) for row in range(len(MAIN) - 1)), (RIGHT, 8)]
    ]
    acquiring, triage, running = row_y(1), row_y(3), row_y(7)
    far, ended = RIGHT + half_width + 22, MIDDLE + half_width + 2
    return [
        *down,
        arrow((MIDDLE - half_width, running), (LEFT + half_width + 2, running)),
        arrow((LEFT, running - half_height + 2), (LEFT, acquiring), (MIDDLE - half_width - 2, acquiring)),
        arrow((edge, triage), (RIGHT - half_width - 2, triage)),
        words(edge + 16, triage + 38, "a worker fails,", "start"),
        words(edge + 16, triage + 54, "or copies differ", "start"),
        arrow((RIGHT, triage - half_height + 2), (RIGHT, acquiring + 8), (MIDDLE + half_width + 2, acquiring + 8)),
        words(RIGHT - 8, acquiring + 30, "another generation", "end"),
        arrow((RIGHT, triage + half_height - 2), (RIGHT, row_y(5) - half_height)),
        words(RIGHT + 8, row_y(4) + 12, "failed too often", "start"),
        arrow(
            (MIDDLE + half_width, acquiring - 8),
            (far, acquiring - 8),
            (far, row_y(5)),
            (RIGHT + half_width + 2, row_y(5)),
        ),
        words(RIGHT + half_width, acquiring - 16, "no room for the workers, or they do not start", "end"),
        arrow((RIGHT, row_y(7)), (RIGHT, row_y(8) - half_height), dashed=True),
        words(RIGHT, row_y(7) - 22, "from any state:"),
        words(RIGHT, row_y(7) - 6, "a request to stop"),
        arrow((RIGHT - half_width, row_y(8) + 8), (edge + 8, row_y(8) + 8), (edge + 8, row_y(9)), (ended, row_y(9))),
        arrow((RIGHT - half_width, triage + 8), (edge + 8, triage + 8), (edge + 8, row_y(9)), (ended, row_y(9))),
        words(edge + 16, row_y(8) + 36, "all is on disk", "start"),
    ]


def draw() -> str:
    """Return the picture as SVG."""
    width, height = RIGHT + WIDTH // 2 + 40, row_y(len(MAIN) - 1) + 36
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#222">'
    )
    title = "<title>The states of a run, and which may follow which</title>"
    tip = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#444"/></marker></defs>'
    )
    paper = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    boxes = [part for state in PLACES for part in box(state)]
    return "\n".join([head, title, tip, paper, *frame(), *arrows(), *boxes, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("states.svg").write_text(draw(), encoding="utf-8")
