"""One process of a group, driven by lines on its standard input; used by test_processes.py."""

import json
import sys
import time
from typing import Any

from distmc.parallel import processes


def add_over_group(value: float) -> float:
    """All-reduce one number with `psum` and a ring of `ppermute`; both must agree."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    count = jax.process_count()
    mesh = jax.make_mesh((count,), ("rows",))

    def total(x: Any) -> Any:
        around = x
        for _ in range(count - 1):
            around = x + jax.lax.ppermute(around, "rows", [(i, (i + 1) % count) for i in range(count)])
        return jax.lax.psum(x, "rows"), around

    by_rows, everywhere = PartitionSpec("rows"), PartitionSpec()
    program = jax.jit(
        jax.shard_map(total, mesh=mesh, in_specs=by_rows, out_specs=(everywhere, by_rows), check_vma=False)
    )
    x = jax.make_array_from_process_local_data(NamedSharding(mesh, by_rows), np.full((1,), value))
    summed, around = (float(np.asarray(part.addressable_data(0))[0]) for part in program(x))
    if summed != around:
        raise AssertionError(f"psum gave {summed}, the ring gave {around}")
    return summed


def watches_for_preemption() -> bool:
    """Tell whether JAX's manager of preemptions is there, which would take signals away from the worker."""
    import jax._src.distributed

    return jax._src.distributed.global_state.preemption_sync_manager is not None


def perform(order: dict[str, Any]) -> Any:
    """Carry out one order and return what to tell."""
    match order["do"]:
        case "join":
            processes.join(order["address"], order["num_processes"], order["rank"], order["host"])
            return "joined" + " and waits for orders to stop" * watches_for_preemption()
        case "add":
            return add_over_group(order["value"])
        case "detach":
            return processes.detach()
        case "leave":
            return processes.leave()
    raise ValueError(order)


def main() -> None:
    """Answer each order with one line of JSON."""
    for line in sys.stdin:
        started = time.monotonic()
        try:
            answer = {"value": perform(json.loads(line))}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        answer["seconds"] = time.monotonic() - started
        # Libraries write to standard output as well; the mark tells our lines apart.
        print("@" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
