"""When more workers are expected to pay."""

import pytest
from control_scripts import report

from distmc.orchestration.pace import GROWTH_SECONDS, Pace

STEP_SECONDS, FORMING_SECONDS = 0.5, 20.0


def pace() -> Pace:
    """Return the pace of two workers, whose generation took 20 seconds to form, and who take two steps a second."""
    pace = Pace()
    pace.form(0.0)
    pace.resume(2, FORMING_SECONDS)
    pace.note([report(1, 10, num_steps=10, seconds=10 * STEP_SECONDS)])
    return pace


LATER = FORMING_SECONDS + GROWTH_SECONDS


@pytest.mark.parametrize(("steps_left", "pays"), [(0, False), (1, False), (79, False), (80, False), (81, True)])
def test_growth_pays_if_it_saves_more_than_it_costs(steps_left: int, pays: bool) -> None:
    # Four workers instead of two save half of the time.
    assert pace().growth_pays(2, 4, steps_left, LATER) is pays


@pytest.mark.parametrize(("forming_seconds", "pays"), [(9.0, True), (11.0, False)])
def test_cost_is_what_a_generation_of_that_size_took_last(forming_seconds: float, pays: bool) -> None:
    known = pace()
    known.form(100.0)
    known.resume(4, 100.0 + forming_seconds)
    known.form(200.0)
    known.resume(2, 201.0)
    # Ten seconds are saved.
    assert known.growth_pays(2, 4, 40, 201.0 + GROWTH_SECONDS) is pays
    # What has not been formed so far may take as long as the longest of all, which is 20 seconds here.
    assert not known.growth_pays(2, 3, 119, 201.0 + GROWTH_SECONDS)
    assert known.growth_pays(2, 3, 121, 201.0 + GROWTH_SECONDS)


def test_nobody_joins_too_soon_after_the_last_change() -> None:
    assert not pace().growth_pays(2, 4, 10_000, LATER - 0.1)
    assert pace().growth_pays(2, 4, 10_000, LATER)


@pytest.mark.parametrize("possible", [1, 2])
def test_as_many_or_fewer_workers_are_no_growth(possible: int) -> None:
    assert not pace().growth_pays(2, possible, 10_000, LATER)
