"""Processes become one JAX program here, and part again.

JAX's own `jax.distributed.initialize` keeps the coordination service inside the first process and lets every
process abort when any other is lost. distmc keeps the service outside the workers, asks it not to share anyone's
fate, and has workers detach from it once they are connected to one another. A worker that loses a peer then gets an
exception within milliseconds, and the loss of the coordinator is no loss at all.

This is the only module that uses names private to JAX; `require_private_names` says which of them went missing.
"""

import contextlib
import dataclasses
import functools
import gc
import importlib
import math
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import jax
import jax.extend.backend

CONNECT_TIMEOUT_SECONDS = 60
HEARTBEAT_TIMEOUT_SECONDS = 100
SHUTDOWN_TIMEOUT_SECONDS = 5
_BIND_ATTEMPTS = 5
_RECOVERABLE_NOTICE = b"experimental recoverable task feature"

_RUNTIME_NAMES = ("get_distributed_runtime_service", "get_distributed_runtime_client", "make_gloo_tcp_collectives")
_STATE_NAMES = ("client", "process_id", "num_processes", "coordinator_address")


def require_private_names() -> tuple[Any, Any]:
    """Return JAX's runtime library and its process-group state, both private, once all names used here are found.

    Raises
    ------
    RuntimeError
        If this version of JAX lacks a name that distmc needs; the message lists them.
    """
    try:
        runtime: Any = importlib.import_module("jax._src.lib")._jax
        state: Any = importlib.import_module("jax._src.distributed").global_state
    except (ImportError, AttributeError) as error:
        raise RuntimeError(_broken(str(error))) from error
    missing = [name for name in _RUNTIME_NAMES if not hasattr(runtime, name)]
    missing += [f"global_state.{name}" for name in _STATE_NAMES if not hasattr(state, name)]
    if missing:
        raise RuntimeError(_broken(", ".join(missing)))
    return runtime, state


def _broken(what: str) -> str:
    return (
        f"jax {jax.__version__} does not offer what distmc needs to connect several processes ({what}); "
        "install a version of jax that this version of distmc lists, or run with `distmc.Local()`."
    )


@dataclasses.dataclass(kw_only=True)
class Coordinator:
    """The coordination service of one generation of workers: they find each other through it.

    Use each service for one generation only: keys that the workers leave in it would mislead the next.

    Attributes
    ----------
    address : str
        ``host:port`` that workers pass to `join`.
    """

    address: str
    _service: Any
    _reservation: socket.socket

    def shutdown(self) -> None:
        """Stop the service; to be called when every worker has detached or is gone. Safe to repeat."""
        service, self._service = self._service, None
        if service is not None:
            service.shutdown()
            self._reservation.close()

    def __enter__(self) -> Self:
        """Return the coordinator itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the service."""
        self.shutdown()


def start_coordinator(host: str, num_processes: int) -> Coordinator:
    """Start the coordination service of one generation in this process, which need not be one of the workers.

    Parameters
    ----------
    host : str
        Address of this machine that all workers can reach. The service listens on it and on no other.
    num_processes : int
        Number of workers that will join.

    Returns
    -------
    Coordinator
        The running service with its address.

    Raises
    ------
    RuntimeError
        If no port of `host` could be bound.
    """
    runtime, _ = require_private_names()
    failures = []
    for _ in range(_BIND_ATTEMPTS):
        reservation = _reserve_port(host)
        address = _join_host_port(host, reservation.getsockname()[1])
        try:
            with _error_stream_without(_RECOVERABLE_NOTICE):
                service = runtime.get_distributed_runtime_service(
                    address,
                    num_processes,
                    heartbeat_timeout=HEARTBEAT_TIMEOUT_SECONDS,
                    shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
                    recoverable=True,
                )
        except Exception as error:
            # The binding raises several unrelated classes; whichever it is, another port may still work.
            reservation.close()
            failures.append(f"{address}: {error}")
            continue
        return Coordinator(address=address, _service=service, _reservation=reservation)
    raise RuntimeError(
        f"The coordination service could not listen on `{host}`, which the workers need to find each other; "
        f"check that this is an address of this machine. Tried {'; '.join(failures)}"
    )


@contextlib.contextmanager
def _error_stream_without(notice: bytes) -> Iterator[None]:
    """Hold back what libraries write to the error stream meanwhile, and pass on all lines that lack `notice`.

    The service warns about a mode that distmc chose on purpose, from C++, where Python's filters do not reach.
    """
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(original, 2)
                held.seek(0)
                for line in held:
                    if notice not in line:
                        os.write(2, line)
    finally:
        os.close(original)


def _reserve_port(host: str) -> socket.socket:
    """Bind a free port without listening on it.

    The service binds ports shareable, so two services on one port would not notice each other. A bound socket that
    never listens keeps the port from being handed out again and takes no connection away from the service.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reservation = socket.socket(family, socket.SOCK_STREAM)
    if hasattr(socket, "SO_REUSEPORT"):
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reservation.bind((host, 0))
    except OSError as error:
        reservation.close()
        raise RuntimeError(
            f"`{host}` is not an address of this machine ({error}); the coordination service needs one that all "
            "workers can reach."
        ) from error
    return reservation


def _join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def join(coordinator_address: str, num_processes: int, rank: int, host: str) -> None:
    """Connect this process to the others of its generation; returns when all of them have started their devices.

    For each other's devices processes wait minutes long, even for one that is gone. Once this has returned, they do
    not wait for each other before their first collective.

    Must be called before anything touches a JAX device in this process. Call it only when all processes are known
    to be up: JAX aborts a process whose peers stay away for longer than `CONNECT_TIMEOUT_SECONDS`.

    Parameters
    ----------
    coordinator_address : str
        Address of the `Coordinator` of this generation.
    num_processes, rank : int
        Size of the generation and this process's place in it.
    host : str
        Address of this machine on which the other workers can reach this process. Without it the collectives
        would listen wherever the host's name resolves to, which often is the loopback interface.

    Raises
    ------
    RuntimeError
        If this process already is in a group or has already started a JAX device.
    """
    runtime, state = require_private_names()
    if state.client is not None:
        raise RuntimeError("This process already belongs to a group of processes; call `leave` first.")
    if _devices_are_started():
        raise RuntimeError(
            "A JAX device was used in this process before it joined the others, so it would not see them; "
            "call `join` first, or `leave` to drop the devices."
        )
    _connect_past_proxies(coordinator_address)
    client = runtime.get_distributed_runtime_client(
        coordinator_address,
        rank,
        init_timeout=CONNECT_TIMEOUT_SECONDS,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_SECONDS,
        shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
        shutdown_on_destruction=False,
        use_compression=True,
    )
    client.connect()
    state.client = client
    state.process_id = rank
    state.num_processes = num_processes
    state.coordinator_address = coordinator_address
    _collectives_on(runtime, host)
    jax.devices()


def detach() -> None:
    """Stop talking to the coordination service; the connections between workers stay.

    Call it once the first collective of the program has run, which is when workers connect to one another.
    """
    _, state = require_private_names()
    if state.client is not None:
        state.client.shutdown()


def leave() -> None:
    """Leave the group: drop every device, compiled program and connection of this process.

    The caller has copied what it needs to the host and dropped its own device arrays and compiled functions;
    any that remain are unusable. Afterwards `join` may be called for the next generation.
    """
    runtime, state = require_private_names()
    state.client = None
    state.process_id, state.num_processes, state.coordinator_address = 0, 1, None
    _collectives_on(runtime, None)
    clear_backends: Callable[[], None] = jax.extend.backend.clear_backends
    clear_backends()
    # Sockets to the peers close when the last reference to the old device client goes.
    gc.collect()


def _devices_are_started() -> bool:
    return bool(importlib.import_module("jax._src.xla_bridge").backends_are_initialized())


def _collectives_on(runtime: Any, host: str | None) -> None:
    """Make CPU collectives listen on `host`; None restores JAX's own choice."""
    current: Callable[..., Any] = runtime.make_gloo_tcp_collectives
    original = current.func if isinstance(current, functools.partial) else current
    runtime.make_gloo_tcp_collectives = original if host is None else functools.partial(original, hostname=host)


def _connect_past_proxies(coordinator_address: str) -> None:
    """Keep gRPC from sending traffic between workers through a web proxy named in the environment."""
    host = coordinator_address.rsplit(":", 1)[0].strip("[]")
    # gRPC reads the second only where there is no first.
    spared = (os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")).split(",")
    os.environ["no_grpc_proxy"] = ",".join([*filter(None, spared), *[host] * (host not in spared)])


def worker_environment(
    num_cpus: int, *, uses_gpu: bool, hang_timeout_seconds: float = 300.0, xla_flags: str = ""
) -> dict[str, str]:
    """Return the environment variables that a worker process needs before it imports JAX or NumPy.

    Parameters
    ----------
    num_cpus : int
        Cores reserved for the worker. Without a limit every worker of a node would start a thread for every core.
    uses_gpu : bool
        Whether the worker owns a GPU.
    hang_timeout_seconds : float
        Silence after which the run is given up. A worker stuck in a collective gives up somewhat earlier, so
        that the peer it waits for is known to be the silent one.
    xla_flags : str
        Flags of the user, which are kept.

    Returns
    -------
    dict of str
        Variable name to value.
    """
    flags = [xla_flags] if xla_flags else []
    # XLA's own limit is half an hour, and it takes whole seconds.
    if "xla_cpu_collective_timeout_seconds" not in xla_flags:
        flags.append(f"--xla_cpu_collective_timeout_seconds={max(1, math.floor(0.8 * hang_timeout_seconds))}")
    return {
        "JAX_PLATFORMS": "cuda,cpu" if uses_gpu else "cpu",
        "XLA_FLAGS": " ".join(flags),
        "PJRT_NPROC": str(num_cpus),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
