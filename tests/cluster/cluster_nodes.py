"""What tests do to the nodes of a cluster on this machine, and ask of them."""

import time
from typing import Any


def drain(cluster: Any, node: Any) -> None:
    """Tell the cluster that a node will be taken away."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    in_a_minute = int((time.time() + 60.0) * 1000)
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = GcsClient(address=cluster.address)
    is_accepted, why_not = client.drain_node(node.node_id, preemption, "the machine is taken away", in_a_minute)
    assert is_accepted, why_not


def wait_until_known_as_lost(cluster: Any, node: Any, seconds: float = 30.0) -> None:
    """Wait until the cluster has taken notice that a node is gone."""
    from ray._raylet import GcsClient
    from ray.core.generated import gcs_pb2

    client, deadline = GcsClient(address=cluster.address), time.monotonic() + seconds
    while time.monotonic() < deadline:
        for found in client.get_all_node_info().values():
            if found.node_id.hex() == node.node_id and found.state == gcs_pb2.GcsNodeInfo.DEAD:
                return
        time.sleep(0.2)
    raise AssertionError(f"the cluster still counts on node {node.node_id}")


def seconds_of_control_service(cluster: Any) -> float:
    """Return the time that the head's control service has computed for."""
    import psutil

    times = psutil.Process(cluster.head_node.all_processes["gcs_server"][0].process.pid).cpu_times()
    return float(times.user + times.system)
