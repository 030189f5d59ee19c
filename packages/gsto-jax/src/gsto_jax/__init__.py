"""GSTO on JAX: graphs compiled to `flax.nnx.Module`, trained, saved and loaded.

model = gsto_jax.compile(gsto_spec.build("gsto-hrnet-w48"))
logits = model(images)["stage4"]
"""

from gsto_jax.compile import CompiledGraph, compile, weights_of
from gsto_jax.files import load, read_checkpoint, save

__all__ = ["CompiledGraph", "compile", "load", "read_checkpoint", "save", "weights_of"]
__version__ = "0.1.0"
