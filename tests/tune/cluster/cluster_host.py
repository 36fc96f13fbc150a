"""A Ray cluster of separate raylets on this machine, for tests: one head and two nodes, a core
each.

python tests/tune/cluster/cluster_host.py: says {"address", "head"} as JSON, then obeys lines `kill
NODE_ID`, and the end of its input.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

NUM_NODES = 3


def main() -> None:
    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(NUM_NODES - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(json.dumps({"address": cluster.address, "head": cluster.head_node.node_id}), flush=True)
    try:
        for line in sys.stdin:
            _, node_id = line.split()
            found = [node for node in cluster.worker_nodes if node.node_id == node_id]
            cluster.remove_node(found[0], allow_graceful=False)
            print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
