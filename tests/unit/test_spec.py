import dataclasses
import fractions
import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distmc.errors import SpecError
from distmc.samplers import (
    HMC,
    LAPS,
    MALA,
    MAMS,
    MEADS,
    NUTS,
    RWMH,
    SAMPLERS,
    SNAPER,
    WITHOUT_GRADIENT,
    ChEES,
    MetricKind,
    Sampler,
    Slice,
)
from distmc.spec import Local, Ray, RunSpec, Schedule

positive = st.floats(min_value=1e-300, max_value=1e300)
tuning: dict[str, Any] = {
    "target_acceptance_rate": st.floats(min_value=0.0, max_value=1.0, exclude_min=True, exclude_max=True),
    "metric": st.sampled_from(get_args(MetricKind)),
}
settings: dict[str, Any] = tuning | {
    "jitter": st.floats(min_value=0.0, max_value=1.0, exclude_max=True),
    "max_integration_steps": st.integers(min_value=1),
}
without_jitter = {name: values for name, values in settings.items() if name != "jitter"}
counts = st.none() | st.integers(min_value=1)
samplers = (
    st.builds(HMC, trajectory_length=positive, **settings)
    | st.builds(ChEES, min_trajectory_length=positive, **settings)
    | st.builds(NUTS, max_tree_depth=st.integers(min_value=1, max_value=30), **tuning)
    | st.builds(MALA, **tuning)
    | st.builds(RWMH, num_proposals=counts, **tuning)
    | st.builds(Slice, num_directions=counts, max_expansions=st.integers(min_value=0), **tuning)
    | st.builds(SNAPER, min_trajectory_length=positive, **settings)
    | st.builds(MEADS, spacing=positive, **without_jitter)
    | st.builds(MAMS, trajectory_length=positive, **settings)
    | st.builds(LAPS, trajectory_length=positive, **settings)
)
schedules = st.builds(
    Schedule,
    initial_buffer=st.integers(min_value=0),
    windows=st.lists(st.integers(min_value=1), max_size=4).map(tuple),
    final_buffer=st.integers(min_value=1),
)
warmups = st.fixed_dictionaries({"num_warmup": st.integers(min_value=0)}) | schedules.map(
    lambda schedule: {"num_warmup": schedule.num_warmup, "schedule": schedule}
)
specs = st.builds(
    lambda warmup, **others: RunSpec(**warmup, **others),
    warmup=warmups,
    sampler=samplers,
    num_chains=st.integers(min_value=2),
    num_draws=st.integers(min_value=1),
    seed=st.integers(min_value=0, max_value=2**63 - 1),
    precision=st.sampled_from(["mixed", "float64"]),
    num_blocks=st.none() | st.integers(min_value=0, max_value=40).map(lambda power: 1 << power),
    reduction=st.sampled_from(["ordered", "fast"]),
)


def _windowed(**changes: Any) -> Schedule:
    return Schedule(**{"initial_buffer": 0, "windows": (5,), "final_buffer": 5, **changes})


@given(specs)
def test_json_round_trip(spec: RunSpec) -> None:
    text = spec.to_json()
    assert RunSpec.from_json(text) == spec
    assert RunSpec.from_json(text).to_json() == text


def test_json_names_every_setting() -> None:
    read = json.loads(RunSpec(sampler=HMC()).to_json())
    assert set(read) == {field.name for field in dataclasses.fields(RunSpec)}
    assert set(read["sampler"]) == {field.name for field in dataclasses.fields(HMC)} | {"name"}


def test_parts_of_a_schedule_have_to_add_up() -> None:
    schedule = Schedule(initial_buffer=5, windows=(10, 20), final_buffer=15)
    assert RunSpec(num_warmup=50, schedule=schedule).schedule == schedule
    with pytest.raises(SpecError, match=r"`schedule=Schedule\(.*add up to 50 steps, not to `num_warmup=40`"):
        RunSpec(num_warmup=40, schedule=schedule)
    with pytest.raises(SpecError, match=r"is not a `distmc.Schedule"):
        RunSpec(num_warmup=50, schedule=(5, (10, 20), 15))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"sampler": {"name": "Gibbs"}}',
        '{"sampler": {"name": "HMC", "speed": 3}}',
        '{"sampler": "HMC"}',
        '{"sampler": {"name": "HMC"}, "num_chainz": 4}',
        '{"sampler": {"name": "HMC"}, "num_chains": 1}',
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        RunSpec.from_json(text)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *[
            (RunSpec, "num_chains", value)
            for value in (0, 1, -3, 2.0, True, "4", None, np.int64(1), np.True_, np.float64(4))
        ],
        *[(RunSpec, "num_warmup", value) for value in (-1, 0.5)],
        *[(RunSpec, "num_draws", value) for value in (0, -1)],
        *[(RunSpec, "seed", value) for value in (-1, 1.5, None, 2**63)],
        *[(RunSpec, "keep_unconstrained", value) for value in ("yes", 1, None)],
        *[(RunSpec, "precision", value) for value in ("float32", None)],
        *[(RunSpec, "num_blocks", value) for value in (0, 3, -4, 2.0)],
        (RunSpec, "reduction", "any"),
        *[(_windowed, "windows", value) for value in ((0,), (10, 2.5), "10", 3, (True,))],
        (_windowed, "initial_buffer", -1),
        (_windowed, "final_buffer", 0),
        *[(RunSpec, "sampler", value) for value in ("HMC", HMC, None)],
        *[(HMC, "trajectory_length", value) for value in (0.0, -1.0, math.nan, math.inf, "1", 10**400, np.True_)],
        *[(ChEES, "min_trajectory_length", value) for value in (0, math.nan)],
        (SNAPER, "min_trajectory_length", -1.0),
        *[(ChEES, "jitter", value) for value in (-0.1, 1.0, math.nan)],
        *[(HMC, "target_acceptance_rate", value) for value in (0.0, 1.0, math.nan)],
        (HMC, "metric", "full"),
        *[(MEADS, "spacing", value) for value in (0.0, math.inf)],
        (MEADS, "target_acceptance_rate", 1.0),
        (MEADS, "metric", "full"),
        (MEADS, "max_integration_steps", 0),
        (HMC, "max_integration_steps", 0),
        *[(NUTS, "max_tree_depth", value) for value in (0, 31, 2.0)],
        *[(sampler, "target_acceptance_rate", value) for sampler in (MALA, NUTS) for value in (0.0, 1.0)],
        *[(sampler, "metric", "full") for sampler in (MALA, NUTS)],
        *[(RWMH, "num_proposals", value) for value in (0, 1.5)],
        (RWMH, "target_acceptance_rate", 1.0),
        (RWMH, "metric", "full"),
        *[(Slice, "num_directions", value) for value in (0, True)],
        (Slice, "max_expansions", -1),
        (Slice, "target_acceptance_rate", "0.5"),
        *[(Ray, "num_workers", value) for value in (0, -1, 1.5)],
        (Ray, "num_cpus_per_worker", 0),
        *[(Ray, "num_gpus_per_worker", value) for value in (-1, 2)],
        *[(Ray, "start_timeout_seconds", value) for value in (0.0, math.inf)],
        (Ray, "hang_timeout_seconds", -1.0),
        (Ray, "address", 6379),
    ],
)
def test_impossible_values_are_refused_by_name(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"`{name}="):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64])
def test_whole_numbers_of_numpy_are_whole_numbers(kind: Any) -> None:
    plain = RunSpec(num_chains=4, num_warmup=0, num_draws=6, seed=7, num_blocks=8)
    spec = RunSpec(num_chains=kind(4), num_warmup=kind(0), num_draws=kind(6), seed=kind(7), num_blocks=kind(8))
    assert (spec, spec.to_json(), repr(spec)) == (plain, plain.to_json(), repr(plain))
    assert type(Ray(num_workers=kind(3)).num_workers) is int


@pytest.mark.parametrize("kind", [int, np.int32, np.float32, np.float64, fractions.Fraction])
def test_real_numbers_of_all_kinds_are_kept_as_floats(kind: Any) -> None:
    spec = RunSpec(sampler=HMC(trajectory_length=kind(2), jitter=kind(0), max_integration_steps=np.int64(9)))
    assert repr(spec.sampler) == repr(HMC(trajectory_length=2.0, jitter=0.0, max_integration_steps=9))
    assert RunSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(("given_blocks", "advice"), [(3, "2 or 4"), (100, "64 or 128")])
def test_the_nearest_powers_of_two_are_offered(given_blocks: int, advice: str) -> None:
    with pytest.raises(SpecError, match=advice):
        RunSpec(num_blocks=given_blocks)


@pytest.mark.parametrize(
    ("sampler", "name", "value"),
    [
        (HMC, "jitter", "0.5"),
        (ChEES, "target_acceptance_rate", None),
    ],
)
def test_settings_of_another_type_are_refused_in_words(sampler: Any, name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"`{name}="):
        sampler(**{name: value})


def test_values_are_frozen() -> None:
    for value, name in ((RunSpec(), "seed"), (HMC(), "jitter"), (ChEES(), "jitter"), (Ray(), "num_workers")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


@pytest.mark.parametrize("sampler", [kind() for kind in SAMPLERS.values()], ids=list(SAMPLERS))
def test_samplers_without_gradients_evaluate_rows_in_float64_whatever_is_asked(sampler: Sampler) -> None:
    assert RunSpec(sampler=sampler, precision="float64").precision_in_force == "float64"
    in_force = RunSpec(sampler=sampler, precision="mixed").precision_in_force
    assert in_force == ("float64" if isinstance(sampler, WITHOUT_GRADIENT) else "mixed")


def test_local_is_one_worker() -> None:
    assert (Local().fewest_workers, Local().most_workers) == (1, 1)
