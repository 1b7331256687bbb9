"""A cluster of two nodes on this machine, each of which says that it has four CPUs and a GPU.

    python two_nodes.py

Prints its address; ends when its input does.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Start, say where, wait."""
    from ray.cluster_utils import Cluster

    asked = {"num_cpus": 4, "num_gpus": 1}
    head = {**asked, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**asked)
    cluster.wait_for_nodes()
    print(f"address {cluster.address}", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
