"""A cluster of two nodes on this machine, whose second is lost when a line is read.

    python ray_cluster.py

Prints its address; a head with one CPU, and a node with two. Ends when its input does.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Start, say where, lose the node."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    print(f"address {cluster.address}", flush=True)
    if sys.stdin.readline():
        cluster.remove_node(node, allow_graceful=False)
        print("lost", flush=True)
        sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
