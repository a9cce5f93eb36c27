"""What is decided about a Ray cluster and what is sent there, without one."""

import importlib
import json
import pathlib
import pickle
import sys
import types
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.cloudpickle import cloudpickle

from distmc.errors import CapacityError, SpecError
from distmc.orchestration import ray_cluster, ray_shipping
from distmc.orchestration.messages import Acquire, Release
from distmc.orchestration.ray import RayExecutor
from distmc.spec import Ray, RunSpec


@pytest.mark.parametrize(
    ("on", "nodes", "expected"),
    [
        (Ray(num_cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 4.0}, {"GPU": 1.0}], 3),
        (Ray(num_gpus_per_worker=1), [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 64.0}], 3),
        (Ray(), [], 0),
    ],
    ids=["no worker spans nodes", "the scarcer resource decides", "no nodes"],
)
def test_room(on: Ray, nodes: list[dict[str, float]], expected: int) -> None:
    assert ray_cluster.room(on, nodes) == expected


@pytest.mark.parametrize("address", ["garbage", "host:", ":6379", "host:99999", "http://host/x", "ray://host:10001"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_what_is_no_address_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, address: str, how: str
) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", address if how == "environment" else "127.0.0.1:1")
    with pytest.raises(SpecError, match=f"`address='{address}'` is "):
        ray_cluster._connect(Ray(address=address if how == "argument" else None))


def test_missing_room_is_told_with_numbers_and_remedy() -> None:
    nodes = [{"CPU": 2.0, "memory": 1e9}] * 10
    with pytest.raises(CapacityError) as caught:
        ray_cluster.require_room(Ray(num_workers=11, num_cpus_per_worker=2), nodes)
    assert str(caught.value) == (
        "`num_workers=11` with 2 CPU each do not fit: the cluster has room for 10. Its nodes have "
        + "; ".join(["2 CPU"] * 8)
        + " and 2 nodes more. Either ask for at most 10 workers, or use a larger cluster."
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"autoscaler_report": {"node_type_mapping": {"a1": "node_a1", "b2": "node_b2"}}}, True),
        ({"autoscaler_report": {"node_type_mapping": {"a1": "head_node", "b2": "worker"}}}, False),
        ({"autoscaler_report": {"node_type_mapping": {}}}, False),
        ({}, False),
        (None, False),
    ],
    ids=["made-up types", "configured types", "no types yet", "another format", "nothing yet"],
)
def test_cluster_is_fixed_only_when_that_is_known(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any] | None, expected: bool
) -> None:
    text = None if status is None else json.dumps(status).encode()
    monkeypatch.setattr(ray_cluster, "_internal_kv_get", lambda key: text)
    assert ray_cluster.is_fixed() is expected


@pytest.mark.parametrize(
    ("num_up", "is_placed", "told"),
    [
        (0, False, "other work holds the cluster, of which only 1 CPU are free"),
        (0, True, "Only 0 of 2 workers did start within 7 s"),
        (1, True, "Only 1 of 2 workers did start within 7 s"),
    ],
)
def test_missing_workers_are_told_from_missing_room(
    monkeypatch: pytest.MonkeyPatch, num_up: int, is_placed: bool, told: str
) -> None:
    monkeypatch.setattr(ray_cluster, "node_resources", lambda: [{"CPU": 4.0}])
    monkeypatch.setattr(ray_cluster.ray, "available_resources", lambda: {"CPU": 1.0})
    on = Ray(num_workers=2, start_timeout_seconds=7.0)
    assert told in ray_cluster.too_late(on, num_up, is_placed=is_placed)


def test_idle_process_that_has_not_answered_may_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = types.SimpleNamespace(spec=RunSpec(num_blocks=4))
    executor = RayExecutor(task, Ray(num_workers=2), build_worker=lambda *_: pytest.fail("no worker is needed"))
    questions: Any = {"asked lately": 3}
    released: dict[int, bool] = {}
    monkeypatch.setattr(executor, "_asked", questions)
    monkeypatch.setattr(
        executor._slots, "release", lambda worker, *, owes_answer: released.update({worker: owes_answer})
    )
    executor.perform(Release(workers=(3, 4)))
    assert released == {3: True, 4: False}
    assert executor._asked == {}


@pytest.mark.parametrize("besides", [(), (2,)])
def test_workers_that_are_set_aside_do_not_make_up_for_missing_room(
    monkeypatch: pytest.MonkeyPatch, besides: tuple[int, ...]
) -> None:
    task: Any = types.SimpleNamespace(spec=RunSpec(num_blocks=4))
    executor = RayExecutor(task, Ray(num_workers=(2, 3), start_timeout_seconds=1e-9), build_worker=pytest.fail)
    slots = types.SimpleNamespace(node_of={1: "a", 2: "b"}, fill=list, are_placed=True)
    monkeypatch.setattr(executor, "_slots", slots)
    monkeypatch.setattr(executor, "_is_connected", True)
    monkeypatch.setattr(ray_cluster, "node_resources", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr(ray_cluster, "is_fixed", lambda: False)
    executor.perform(Acquire(besides=besides))
    assert len(executor._missing_capacity()) == len(besides)


def test_functions_beside_the_script_travel_as_code(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_likelihood.py").write_text("OFFSET = 2\ndef log_likelihood(x):\n    return x + OFFSET\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("my_likelihood").log_likelihood
    by_name = cloudpickle.dumps(function)
    with ray_shipping._pickled_by_value((function, None)):
        by_value = cloudpickle.dumps(function)
    assert cloudpickle.dumps(function) == by_name
    # On another node the file does not exist.
    monkeypatch.delitem(sys.modules, "my_likelihood")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(by_name)
    assert pickle.loads(by_value)(40) == 42


def test_modules_that_a_model_imports_from_its_own_directory_travel_as_code(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_parts").mkdir()
    (tmp_path / "my_parts" / "__init__.py").write_text("")
    (tmp_path / "my_parts" / "shift.py").write_text("def shift(x):\n    return x + 2\n")
    (tmp_path / "my_model.py").write_text(
        "import my_parts.shift\ndef log_likelihood(x):\n    return my_parts.shift.shift(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("my_model").log_likelihood
    with ray_shipping._pickled_by_value((function,)):
        by_value = cloudpickle.dumps(function)
        assert not any(name.startswith(("distmc", "numpy")) for name in cloudpickle.list_registry_pickle_by_value())
    assert not cloudpickle.list_registry_pickle_by_value()
    for name in ("my_model", "my_parts.shift", "my_parts"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    assert pickle.loads(by_value)(40) == 42


def test_installed_functions_travel_by_name() -> None:
    with ray_shipping._pickled_by_value((json.dumps, pytest.raises, Ray)):
        assert not cloudpickle.list_registry_pickle_by_value()
