"""What `import gsto_jax` brings with it, and that it trains where torch cannot be had."""

import subprocess
import sys

import gsto_jax

WITHOUT_TORCH = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "gsto_torch", "gsto_train"):
            raise ModuleNotFoundError(f"{name} is refused here", name=name)

sys.meta_path.insert(0, Refused())
"""

TRAIN = """
import numpy as np
import gsto_jax, gsto_spec
from gsto_jax.backend import JaxBackend
from gsto_spec.backend import Training
build = gsto_spec.GraphBuilder()
graph = build.graph({"stage4": build.conv2d("head", build.input(), 2, bias=True)})
trainer = JaxBackend().trainer(graph, gsto_spec.initial_weights(graph), Training(), device="cpu")
batch = {"image": np.ones((1, 3, 4, 4), np.float32), "label": np.zeros((1, 4, 4), np.int64)}
losses = [float(trainer.step(batch, 0.1)["loss"]) for _ in range(2)]
assert losses[1] < losses[0]
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "gsto_torch", "gsto_train"}))
"""


def test_it_trains_where_torch_cannot_be_had() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH + TRAIN]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"


def test_public_names_exist_once() -> None:
    assert sorted(set(gsto_jax.__all__)) == sorted(gsto_jax.__all__)
    assert [name for name in gsto_jax.__all__ if not hasattr(gsto_jax, name)] == []
