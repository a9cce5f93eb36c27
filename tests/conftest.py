"""What all tests share: a home of their own, and one small Ray cluster for those that ask for it."""

import contextlib
import functools
import gc
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Ray writes access tokens into the home directory and JAX picks its platform when first imported, so both have to be
# settled before any test module is.
_HOME = tempfile.TemporaryDirectory(prefix="distmc-home-")
os.environ["HOME"] = _HOME.name
os.environ["RAY_AUTH_MODE"] = "disabled"
# Ray yields to whatever else computes, such as the tests beside it, which would then see it time out.
os.environ["RAY_worker_niceness"] = "0"
# distmc's own clusters start no processes in advance either.
os.environ["RAY_prestart_worker_first_driver"] = "0"
# Tests run side by side: XLA's threads, one for each core in each process, would only wait for each other's cores.
os.environ["PJRT_NPROC"] = "1"
# Half of the time of most tests goes into compiling. XLA's older code generator takes two thirds of the time of the
# one that users get, and its programs run almost as quickly; where last bits matter, see `compiled_for_users`.
_QUICK_FLAG = "--xla_cpu_use_fusion_emitters=false"
# What `jax_disable_most_optimizations` sets in this process, for those that it starts.
_BRIEF_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
_USUAL_LEVEL = 3
# Processes of pytest-xdist have what this sets from the one that started them.
_USUAL_FLAGS = os.environ.get("XLA_FLAGS", "").replace(_QUICK_FLAG, "").strip()
os.environ["XLA_FLAGS"] = f"{_USUAL_FLAGS} {_QUICK_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("RAY_ADDRESS", None)

import jax  # noqa: E402 - reads the variables set above
from jax.extend.backend import clear_backends  # noqa: E402

from distmc.sampling import compiled  # noqa: E402

# Many tests compile what others have compiled already. This, too, does not reach other processes.
jax.config.update("jax_compilation_cache_dir", f"{_HOME.name}/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class OneClusterAtATime(LoadFileScheduling):
    """Shares out tests by file, but all of `tests/cluster` go to one process: two of their clusters are too many."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "tests/cluster" if file.startswith("tests/cluster/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneClusterAtATime:
    """Say how tests are shared out among processes."""
    return OneClusterAtATime(config, log)


@functools.cache
def give_way() -> None:
    """Let the tests of clusters use the cores first, which have deadlines to keep; all others only compute."""
    os.nice(5)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say how urgent a test is, and all that follow in this process: those of clusters are shared out first."""
    if not item.nodeid.startswith("tests/cluster/"):
        give_way()


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, zombies left out."""
    parents = {}
    for directory in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold spaces.
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(directory.name)] = int(parent)
    found: set[int] = set()
    below = {pid}
    while below:
        below = {child for child, parent in parents.items() if parent in below} - found
        found |= below
    return found


def is_running(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: set[int], seconds: float) -> set[int]:
    """Return which of the processes are still there after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := {pid for pid in pids if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def pytest_collection_finish() -> None:
    """Spare the search for garbage what has been imported, and make it rarer: it took a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextlib.contextmanager
def compiling(level: int, *, for_users: bool = False) -> Iterator[None]:
    """Let this process, and those that it starts, compile at this level of optimisation, 0 to 3."""
    briefly = level == 0
    options = {"xla_backend_optimization_level": level, "xla_cpu_use_fusion_emitters": for_users}
    flags = [_USUAL_FLAGS] if for_users else [_USUAL_FLAGS, _QUICK_FLAG, *_BRIEF_FLAGS * briefly]
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_CPU_OPTIONS", {**compiled._CPU_OPTIONS, **options})
        # This process has read the variable; those that it starts, workers too, will.
        patch.setenv("XLA_FLAGS", " ".join(flags).strip())
        jax.config.update("jax_disable_most_optimizations", briefly)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", before)


def start_devices(count: int) -> None:
    """Let this process have so many devices from now on, and XLA a thread for each."""
    jax.clear_caches()
    clear_backends()
    # Unlike a variable in the environment, this does not reach the processes that tests start.
    jax.config.update("jax_num_cpu_devices", count)


@pytest.fixture(scope="module", autouse=True)
def devices(request: pytest.FixtureRequest) -> None:
    """Start the devices that a module needs: one, or many if it is marked so.

    Tests of what workers compute together use up to eight devices of this process in place of eight processes. There
    are twice as many, since XLA has a thread for each, and those that wait for each other in a sum must leave some
    free. Threads without work look for some at one another before they sleep: with sixteen of them small models took
    half as much processor time again.
    """
    wanted = 1 if request.node.get_closest_marker("many_devices") is None else 16
    if wanted != len(jax.devices()):
        start_devices(wanted)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Compile in still less time: most tests run their programs briefly."""
    with compiling(0):
        yield


@pytest.fixture(scope="module")
def optimised(quick_compilation: None) -> Iterator[None]:
    """Let the programs of a module of tests run fast, where that takes longer than to compile them."""
    with compiling(_USUAL_LEVEL):
        yield


@pytest.fixture(scope="session")
def optimising() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Give the context that `optimised` is for a module, for single tests whose programs run for long."""
    return functools.partial(compiling, _USUAL_LEVEL)


@pytest.fixture(scope="module")
def compiled_for_users(quick_compilation: None) -> Iterator[None]:
    """Compile a module's programs as users' are: where last bits are compared, and so may depend on the compiler."""
    with compiling(_USUAL_LEVEL, for_users=True):
        yield


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Forget the programs of a module, which would fill gigabytes in the end."""
    yield
    jax.clear_caches()


class ProcessTree:
    """Looks at the processes of this machine."""

    descendants = staticmethod(descendants)
    wait_until_gone = staticmethod(wait_until_gone)


@pytest.fixture(scope="session")
def process_tree() -> ProcessTree:
    """Give tests a look at the processes of this machine."""
    return ProcessTree()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Connect this process to a Ray cluster of four (nominal) cores; afterwards nothing of it may be left."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from distmc.orchestration import ray as executor

    # Nobody reads what the monitor of logs passes on; it took a fiftieth of the processor time of all tests.
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False, "include_log_monitor": False}
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        with pytest.MonkeyPatch.context() as patch:
            # Most runs are over by the time that a process in reserve is up. The test of the reserve sets this itself,
            # and clusters of other tests leave it as it is.
            patch.setattr(executor, "_RESERVE_SECONDS", 60.0)
            patch.setattr(executor, "_RESERVE_AGAIN_SECONDS", 60.0)
            yield
    finally:
        started = descendants(os.getpid())
        ray.shutdown()
        cluster.shutdown()
    left = wait_until_gone(started, 15.0)
    assert not left, f"processes of the Ray cluster are left: {left}"
