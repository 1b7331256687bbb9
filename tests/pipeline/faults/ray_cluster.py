"""A cluster on this machine that grows and shrinks as it is told.

    python ray_cluster.py

Prints its address; a head with one CPU, and a node with two CPUs and what is said to be a GPU. A
line "add" adds such a node, any other takes away the one that came first, as if its machine were
switched off. Ends when its input does.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Start, say where, do as told."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=2, num_gpus=1)]
    cluster.wait_for_nodes()
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        if line == "add\n":
            nodes.append(cluster.add_node(num_cpus=2, num_gpus=1))
            print("added", flush=True)
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
