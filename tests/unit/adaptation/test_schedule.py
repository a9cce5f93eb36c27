"""Warm-up is divided without rest, and its windows grow."""

import itertools

from distmc.adaptation.schedule import build_schedule


def test_parts_add_up_to_the_whole() -> None:
    for num_warmup in range(2001):
        schedule = build_schedule(num_warmup)
        assert schedule.num_warmup == num_warmup
        assert min(schedule.initial_buffer, schedule.final_buffer, *schedule.windows, 0) == 0


def test_windows_grow_and_end_before_the_final_buffer() -> None:
    for num_warmup in range(20, 2001):
        schedule = build_schedule(num_warmup)
        assert all(later >= 2 * earlier for earlier, later in zip(schedule.windows, schedule.windows[1:], strict=False))
        assert schedule.windows[0] >= 10
        # The step size starts afresh after the last window and needs steps to settle.
        assert schedule.final_buffer >= num_warmup // 5
        assert schedule.window_ends[-1] == num_warmup - schedule.final_buffer - 1
        ends = [schedule.initial_buffer - 1, *schedule.window_ends]
        assert tuple(later - earlier for earlier, later in itertools.pairwise(ends)) == schedule.windows


def test_very_short_warmups_tune_the_step_size_alone() -> None:
    for num_warmup in range(20):
        assert build_schedule(num_warmup).windows == ()
