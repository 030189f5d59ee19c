"""GSTO on JAX: graphs compiled to `flax.nnx.Module`, trained, saved and loaded.

model = gsto_jax.compile(gsto_spec.build("gsto-hrnet-w48"))
logits = model(images)["stage4"]
"""

from gsto_jax.compile import CompiledGraph, compile, weights_of
from gsto_jax.files import from_pretrained, load, read_checkpoint, save, save_pretrained

__all__ = [
    "CompiledGraph",
    "compile",
    "from_pretrained",
    "load",
    "read_checkpoint",
    "save",
    "save_pretrained",
    "weights_of",
]
__version__ = "0.1.0"
