"""GSTO on PyTorch: graphs compiled to `torch.nn.Module`, trained, saved and loaded.

model = gsto_torch.compile(gsto_spec.build("gsto-hrnet-w48"))
logits = model(images)["stage4"]
"""

from gsto_torch.compile import CompiledGraph, compile, weights_of
from gsto_torch.files import load, save
from gsto_torch.released import read_checkpoint

__all__ = ["CompiledGraph", "compile", "load", "read_checkpoint", "save", "weights_of"]
__version__ = "0.1.0"
