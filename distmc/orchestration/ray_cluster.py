"""Connects to a Ray cluster, or starts one, and says whether it can hold the workers."""

import contextlib
import json
import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray._private import worker as ray_internals
from ray._private.state import state as global_state
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get

from distmc.errors import CapacityError, SpecError
from distmc.spec import Ray

_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_PRESTART = "RAY_prestart_worker_first_driver"
_LISTENER_SECONDS = 10.0
_LARGEST_PORT = 65535


@contextlib.contextmanager
def connected(on: Ray) -> Iterator[bool]:
    """Be connected to the cluster that `on` names; what this starts it ends, what it finds it leaves alone.

    Yields
    ------
    bool
        Whether the cluster was started here, on this machine alone.

    Raises
    ------
    CapacityError
        If there is no such cluster, or it certainly cannot hold the workers.
    SpecError
        If `address` is one that cannot be used.
    """
    if ray.is_initialized():
        _require_same_cluster(on)
        yield False
        return
    with _sigterm_kept():
        started_here = _connect(on)
    try:
        with _reports_of_deaths_held_back():
            yield started_here
    finally:
        with _sigint_held_back():
            ray.shutdown()


def _connect(on: Ray) -> bool:
    address = on.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise SpecError(
            f"`address={address!r}` is of a Ray Client, which keeps this process outside the cluster where workers "
            "cannot reach it; run on a node of the cluster, for instance through `ray job submit`."
        )
    if address == "local":
        num_cpus = os.cpu_count() or 1
        require_room(on, [{"CPU": float(num_cpus), "GPU": math.inf}])
        with warnings.catch_warnings(), _without_spare_processes():
            # JAX warns of any fork. Ray's children turn into other programs at once and touch nothing of JAX.
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **_QUIET)
        return True
    try:
        _require_listener(address)
        ray.init(address=address, **_QUIET)
    except OSError as error:
        raise CapacityError(
            f"No Ray cluster answers at `{address}` ({error}); give the address of one that runs, or "
            '`address="local"` to start one on this machine.'
        ) from error
    return False


@contextlib.contextmanager
def _without_spare_processes() -> Iterator[None]:
    """Keep a cluster that starts now from starting a process for every core in advance; a run may need only a few."""
    if _PRESTART in os.environ:
        yield
        return
    os.environ[_PRESTART] = "0"
    try:
        yield
    finally:
        del os.environ[_PRESTART]


@contextlib.contextmanager
def _reports_of_deaths_held_back() -> Iterator[None]:
    """Keep Ray from writing a paragraph into the output for every process that dies; distmc says so in a sentence.

    A version of Ray without this name writes them again, and is none the worse for it.
    """
    original = getattr(ray_internals, "_worker_logs_enabled", True)
    ray_internals._worker_logs_enabled = False
    try:
        yield
    finally:
        ray_internals._worker_logs_enabled = original


def _require_listener(address: str) -> None:
    """Raise `OSError` soon if nothing listens at ``host:port``; Ray itself would try for a minute, and then abort."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise SpecError(
            f'`address={address!r}` is not that of a Ray cluster; give "host:port" with the port of its head, "auto" '
            'to find one, or "local" to start one on this machine.'
        )
    socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENER_SECONDS).close()


def _require_same_cluster(on: Ray) -> None:
    present = ray.get_runtime_context().gcs_address
    if on.address not in (None, "auto", present):
        raise SpecError(
            f"`address={on.address!r}` was given, but this process is already connected to the Ray cluster at "
            f"`{present}`; leave `address` out to use that one, or call `ray.shutdown()` first."
        )


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back that `ray.init` replaces by one that exits on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    original = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if original is not None:
            signal.signal(signal.SIGTERM, original)


@contextlib.contextmanager
def _sigint_held_back() -> Iterator[None]:
    """Let processes be taken down completely, even if somebody presses Ctrl-C once more meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    original = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, original)


def bundle(on: Ray) -> dict[str, float]:
    """Return the resources that one worker reserves."""
    resources = {"CPU": float(on.num_cpus_per_worker)}
    if on.num_gpus_per_worker:
        resources["GPU"] = float(on.num_gpus_per_worker)
    return resources


def room(on: Ray, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of workers that fit on nodes with these resources; a worker never spans two nodes."""
    wanted = bundle(on)
    return sum(math.floor(min(node.get(name, 0.0) / amount for name, amount in wanted.items())) for node in nodes)


def require_room(on: Ray, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise `CapacityError` if the workers do not fit on nodes with these resources."""
    fitting = room(on, nodes)
    if fitting < on.fewest_workers:
        raise CapacityError(too_small(on, nodes, fitting))


def too_small(on: Ray, nodes: Sequence[Mapping[str, float]], fitting: int) -> str:
    """Say that the workers do not fit, with the numbers and what to do."""
    each = _resources(bundle(on))
    have = "; ".join(_resources({name: node.get(name, 0.0) for name in bundle(on)}) for node in nodes[:8])
    more = f" and {len(nodes) - 8} nodes more" if len(nodes) > 8 else ""
    advice = f"ask for at most {fitting} workers" if fitting else "ask for less per worker"
    return (
        f"`num_workers={on.num_workers}` with {each} each do not fit: the cluster has room for {fitting}. "
        f"Its nodes have {have or 'nothing'}{more}. Either {advice}, or use a larger cluster."
    )


def _resources(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount < math.inf)


def node_resources() -> list[dict[str, float]]:
    """Return the total resources of each living node."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def living_nodes() -> frozenset[str]:
    """Return Ray's names of the nodes that are there."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def is_fixed() -> bool:
    """Say whether the cluster is known never to grow.

    Ray's monitor writes down the type of every node. Where an autoscaler is at work these are the types of its
    configuration; where none is, the monitor makes up one type for each node from the node's own number.
    Anything that cannot be read counts as a cluster that may grow.
    """
    text = _internal_kv_get("__autoscaling_status")
    try:
        types: dict[str, str] = json.loads(text)["autoscaler_report"]["node_type_mapping"]
    except (TypeError, ValueError, KeyError):
        return False
    return bool(types) and all(kind == f"node_{number}" for number, kind in types.items())


def draining_nodes() -> frozenset[str]:
    """Return Ray's names of the nodes that are about to be taken away."""
    return frozenset(global_state.get_draining_nodes())


def too_late(on: Ray, num_up: int, *, is_placed: bool) -> str:
    """Say that the workers were not up in time.

    Parameters
    ----------
    on : Ray
        What was asked for.
    num_up : int
        Workers that have answered.
    is_placed : bool
        Whether Ray has given the fewest workers their room.
    """
    limit = f"{on.start_timeout_seconds:g} s (`start_timeout_seconds`)"
    nodes = node_resources()
    fitting = room(on, nodes)
    if fitting < on.fewest_workers:
        return f"{too_small(on, nodes, fitting)} It did not grow within {limit}."
    if is_placed or num_up:
        return (
            f"Only {num_up} of {on.fewest_workers} workers did start within {limit}; look at the logs of Ray on the "
            "nodes, or allow more time where images or packages have to be loaded first."
        )
    free = ray.available_resources()
    have = _resources({name: free.get(name, 0.0) for name in bundle(on)})
    return (
        f"`num_workers={on.num_workers}` with {_resources(bundle(on))} each could not be placed within {limit}: other "
        f"work holds the cluster, of which only {have} are free. Wait for that work, or ask for fewer workers."
    )


def quietly(release: Any, *arguments: object, **named: object) -> None:
    """Call `release`; a cluster that is gone has nothing left to be released."""
    with contextlib.suppress(RayError, ConnectionError, ValueError):
        release(*arguments, **named)
