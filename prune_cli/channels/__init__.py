"""Which channels belong together: `trace` a network, then ask its groups, units and costs."""

from prune_cli.channels.network import METRICS, Axis, Group, Layer, Metric, Network
from prune_cli.channels.trace import graph_of, trace

__all__ = ["METRICS", "Axis", "Group", "Layer", "Metric", "Network", "graph_of", "trace"]
