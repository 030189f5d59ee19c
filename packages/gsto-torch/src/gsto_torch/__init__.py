"""GSTO on PyTorch: graphs compiled to `torch.nn.Module`, trained, saved and loaded.

model = gsto_torch.compile(gsto_spec.build("gsto-hrnet-w48"))
logits = model(images)["stage4"]
"""

from gsto_torch.compile import CompiledGraph, compile, weights_of
from gsto_torch.files import from_pretrained, load, save, save_pretrained
from gsto_torch.released import read_checkpoint

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
