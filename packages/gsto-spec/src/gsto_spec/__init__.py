"""Gated multi-scale networks for pixel labelling, declared once: graphs of a closed op set.

Start with `architectures`, `variant` and `build`; write a graph by hand with `GraphBuilder`.
"""

from gsto_spec.builder import FAN_IN_NORMAL, HRNET_NORMAL, GraphBuilder, Initialization
from gsto_spec.catalog import architectures, build, variant
from gsto_spec.cost import Cost, cost
from gsto_spec.errors import GraphError, GstoError, WeightsError
from gsto_spec.features import Level, feature_levels, features
from gsto_spec.graph import Graph, Node
from gsto_spec.passes import optimize
from gsto_spec.reference import evaluate
from gsto_spec.resnet import ResNet
from gsto_spec.rewrite import RewriteLog
from gsto_spec.variant_checks import VariantError
from gsto_spec.variants import HRNet
from gsto_spec.weights import initial_weights

__all__ = [
    "FAN_IN_NORMAL",
    "HRNET_NORMAL",
    "Cost",
    "Graph",
    "GraphBuilder",
    "GraphError",
    "GstoError",
    "HRNet",
    "Initialization",
    "Level",
    "Node",
    "ResNet",
    "RewriteLog",
    "VariantError",
    "WeightsError",
    "architectures",
    "build",
    "cost",
    "evaluate",
    "feature_levels",
    "features",
    "initial_weights",
    "optimize",
    "variant",
]
__version__ = "0.1.0"
