"""The values of a network's maps for a picture, computed by any backend as outputs of a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_spec import Graph, features
from gsto_spec.backend import Predictor
from gsto_train.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gsto_train.look.anatomy import Branch, Gate, branches, gates
from gsto_train.look.drawing import Picture
from gsto_train.look.network import Network
from gsto_train.look.predicting import Boxes, Looker

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Observation:
    """What a network did with a picture: the picture as the network got it, and its maps (h, w) by node.

    A branch's map is its mean over the channels (figure 1 of the paper).
    """

    picture: Picture
    maps: Mapping[str, Plane]


class Observer:
    """Shows the inside of a network; `branches` and `gates` say what of it."""

    def __init__(self, network: Network, looker: Looker) -> None:
        self.branches: Sequence[Branch] = branches(network.graph)
        self.gates: Sequence[Gate] = gates(network.graph)
        self._looker = looker
        self._nodes = [*(each.node for each in self.branches), *(each.node for each in self.gates)]
        self._predictor = network.predictor(_part(network.graph, self._nodes))

    def observe(self, picture: Picture, boxes: Boxes = None) -> Observation | None:
        """Return what the network does with a picture at one scale, or with the first box; None for none."""
        recording = _Recording(self._predictor, self._nodes)
        self._looker.pass_through(recording, picture, boxes)
        return recording.observation


def _part(graph: Graph, nodes: Sequence[str]) -> Graph:
    """Return the part of a network whose outputs are its first output and then `nodes`, by number."""
    output = next(iter(graph.outputs.values()))
    return features(graph, nodes={"output": output, **{f"map{k}": node for k, node in enumerate(nodes)}})


@dataclass
class _Recording:
    """A predictor that keeps what it sees of the first picture, and gives the first output alone."""

    predictor: Predictor
    nodes: Sequence[str]
    observation: Observation | None = field(default=None)

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = self.predictor.predict(images)
        if self.observation is None:
            maps = {node: found[f"map{k}"][0].mean(axis=0) for k, node in enumerate(self.nodes)}
            self.observation = Observation(_shown(images[0]), maps)
        return {"output": found["output"]}


def _shown(image: NDArray[Any]) -> Picture:
    """Return (3, H, W) normalised as a picture again."""
    shown = image.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return np.asarray((shown * 255).round().clip(0, 255), np.uint8)
