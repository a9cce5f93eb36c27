"""When warm-up does what.

Growing windows estimate the metric, each from its own steps alone, so that transients are forgotten; a last buffer
tunes step size and trajectory to the final metric. Many chains fill a window quickly, so the windows are shorter than
those made for four chains.

A metric that is learned from gradients is useful long before the chains have arrived, and the steps before it are the
expensive ones: the first window comes early. A metric that is learned from positions alone says where chains have
been, so there a first buffer brings them to the typical set.

Kernels of short steps need another division. Where a direction is much longer than the chains are spread at the start,
they diffuse along it, and each metric lets them diffuse as much further as they have become wider: many short windows
widen sooner than few long ones.
"""

from distmc.spec import Schedule

_SHORTEST_USEFUL_WARMUP = 20
_FINAL_SHARE = 0.2
_LONGEST_INITIAL_BUFFER = 10
_FIRST_WINDOW = 10
_INITIAL_SHARE_OF_ARRIVAL = 0.25
_FIRST_WINDOW_AFTER_ARRIVAL = 15
_INITIAL_SHARE_OF_SHORT_STEPS = 0.05
_WINDOW_OF_SHORT_STEPS = 15
_SHARE_OF_FIRST_WINDOWS = 0.15
_SHARE_OF_LAST_WINDOW = 0.8


def build_schedule(num_warmup: int) -> Schedule:
    """Divide the steps of warm-up for kernels that follow gradients; very short ones tune the step size alone.

    Windows double in length; the last one takes what is left.
    """
    initial = min(_LONGEST_INITIAL_BUFFER, int(_INITIAL_SHARE_OF_ARRIVAL * num_warmup))
    return _with_doubling_windows(num_warmup, initial, _FIRST_WINDOW)


def build_schedule_after_arrival(num_warmup: int) -> Schedule:
    """Divide the steps of warm-up for kernels whose metric is of use only where chains have arrived before.

    As `build_schedule`, but a quarter of warm-up comes before the first window.
    """
    initial = int(_INITIAL_SHARE_OF_ARRIVAL * num_warmup)
    return _with_doubling_windows(num_warmup, initial, _FIRST_WINDOW_AFTER_ARRIVAL)


def build_schedule_of_short_steps(num_warmup: int) -> Schedule:
    """Divide the steps of warm-up for kernels that move by short steps.

    Windows of the shortest length are followed by a longer one, and by one that takes most of what is left.
    """
    if num_warmup < _SHORTEST_USEFUL_WARMUP:
        return _step_size_alone(num_warmup)
    initial, final = int(_INITIAL_SHARE_OF_SHORT_STEPS * num_warmup), int(_FINAL_SHARE * num_warmup)
    first_windows = int(_SHARE_OF_FIRST_WINDOWS * num_warmup) // _WINDOW_OF_SHORT_STEPS * (_WINDOW_OF_SHORT_STEPS,)
    left = num_warmup - initial - sum(first_windows) - final
    last = int(_SHARE_OF_LAST_WINDOW * left) if first_windows else left
    middle = (left - last,) if left > last else ()
    return Schedule(initial_buffer=initial, windows=(*first_windows, *middle, last), final_buffer=final)


def _with_doubling_windows(num_warmup: int, initial: int, first_window: int) -> Schedule:
    if num_warmup < _SHORTEST_USEFUL_WARMUP:
        return _step_size_alone(num_warmup)
    final = int(_FINAL_SHARE * num_warmup)
    left = num_warmup - initial - final
    windows, window = [], min(first_window, left)
    while left >= 3 * window:
        windows.append(window)
        left -= window
        window *= 2
    return Schedule(initial_buffer=initial, windows=(*windows, left), final_buffer=final)


def _step_size_alone(num_warmup: int) -> Schedule:
    return Schedule(initial_buffer=0, windows=(), final_buffer=num_warmup)
