"""Warm-up is divided without rest, and its windows grow."""

import itertools
from collections.abc import Callable

import pytest

from distmc.adaptation.schedule import (
    Schedule,
    build_schedule,
    build_schedule_after_arrival,
    build_schedule_of_short_steps,
)

divisions = pytest.mark.parametrize(
    "divide", [build_schedule, build_schedule_after_arrival, build_schedule_of_short_steps]
)


@divisions
def test_parts_add_up_to_the_whole(divide: Callable[[int], Schedule]) -> None:
    for num_warmup in range(2001):
        schedule = divide(num_warmup)
        assert schedule.num_warmup == num_warmup
        assert min(schedule.initial_buffer, schedule.final_buffer, *schedule.windows, 0) == 0


@divisions
def test_windows_end_before_the_final_buffer(divide: Callable[[int], Schedule]) -> None:
    for num_warmup in range(20, 2001):
        schedule = divide(num_warmup)
        assert schedule.windows[0] >= 10
        # The step size starts afresh after the last window and needs steps to settle.
        assert schedule.final_buffer >= num_warmup // 5
        assert schedule.window_ends[-1] == num_warmup - schedule.final_buffer - 1
        ends = [schedule.initial_buffer - 1, *schedule.window_ends]
        assert tuple(later - earlier for earlier, later in itertools.pairwise(ends)) == schedule.windows


@pytest.mark.parametrize("divide", [build_schedule, build_schedule_after_arrival])
def test_windows_grow(divide: Callable[[int], Schedule]) -> None:
    for num_warmup in range(20, 2001):
        windows = divide(num_warmup).windows
        assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(windows))


def test_gradients_make_the_first_window_end_early() -> None:
    for num_warmup in range(100, 2001):
        assert build_schedule(num_warmup).window_ends[0] == 19
        assert build_schedule_after_arrival(num_warmup).initial_buffer == num_warmup // 4


def test_short_steps_get_many_short_windows_and_a_long_one() -> None:
    for num_warmup in range(200, 2001):
        windows = build_schedule_of_short_steps(num_warmup).windows
        assert len(windows) >= len(build_schedule_after_arrival(num_warmup).windows)
        assert len(set(windows[:-2])) == 1
        assert 0.4 * num_warmup < windows[-1] < 0.6 * num_warmup


@divisions
def test_very_short_warmups_tune_the_step_size_alone(divide: Callable[[int], Schedule]) -> None:
    for num_warmup in range(20):
        assert divide(num_warmup).windows == ()
