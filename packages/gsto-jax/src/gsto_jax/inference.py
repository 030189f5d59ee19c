"""Predicting with JAX, by the contract of `gsto_spec.backend`; and what the compiler says of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gsto_jax.place import Place, numbers
from gsto_jax.program import Program, Tensors, channels_last, split
from gsto_spec.sizes import is_feature
from gsto_spec.weights import check_weights

Arrays = dict[str, NDArray[Any]]


class Inference:
    """A program in inference mode on this process's own devices, each with a share of the images."""

    def __init__(self, program: Program, place: Place) -> None:
        self.program, self.place = program, place.here
        self._compiled = jax.jit(self._outputs)

    def predict(self, parameters: Tensors, statistics: Tensors, images: NDArray[Any]) -> Arrays:
        """See `JaxPredictor.predict`."""
        images = numbers("image", images)
        with self.place.active():
            placed = self.place.batch({"image": self._filled(images)})["image"]
            outputs = self._compiled(parameters, statistics, placed)
        return {name: self._whole(name, np.array(output), len(images)) for name, output in outputs.items()}

    def memory_analysis(
        self, parameters: Tensors, statistics: Tensors, shape: tuple[int, int, int, int]
    ) -> dict[str, int]:
        """See `JaxPredictor.memory_analysis`."""
        filled = (shape[0] + self._missing(shape[0]), *shape[1:])
        with self.place.active():
            images = self.place.to_come(filled, self.place.dtype)
            return memory_of(self._compiled.lower(parameters, statistics, images))

    def _missing(self, images: int) -> int:
        """How many images more would be a multiple of the devices."""
        return -images % len(self.place.devices)

    def _filled(self, images: NDArray[Any]) -> NDArray[Any]:
        filled = np.zeros((len(images) + self._missing(len(images)), *images.shape[1:]), self.place.dtype)
        filled[: len(images)] = images
        return filled

    def _whole(self, name: str, output: NDArray[Any], images: int) -> NDArray[Any]:
        """An output of the images alone; that of a graph of leaves has none."""
        graph = self.program.graph
        return output[:images] if is_feature(graph.shapes[graph.outputs[name]]) else output

    def _outputs(self, parameters: Tensors, statistics: Tensors, images: Array) -> OrderedDict[str, Array]:
        inputs = [channels_last(self.program.graph, images)]
        return self.program.channels_first(self.program(parameters, statistics, inputs, training=False)[0])


class JaxPredictor:
    """A graph in inference mode on this process's own devices; a `gsto_spec.backend.Predictor`."""

    def __init__(self, program: Program, weights: Mapping[str, NDArray[Any]], place: Place) -> None:
        check_weights(program.graph, weights)
        self._inference = Inference(program, place)
        with place.active():
            tensors = {name: place.here.tensor(array) for name, array in weights.items()}
        self._tensors = split(program.graph, tensors)

    def predict(self, images: NDArray[Any]) -> Arrays:
        """Output name -> N x K x h x w, float32 or float64; compiled once per shape.

        Every device computes its share of the images; where they do not divide, some compute zeros besides.
        """
        return self._inference.predict(*self._tensors, images)

    def memory_analysis(self, shape: tuple[int, int, int, int]) -> dict[str, int]:
        """What `predict` takes of images N x C x H x W, in bytes a device; see `memory_of`."""
        return self._inference.memory_analysis(*self._tensors, shape)


def memory_of(lowered: jax.stages.Lowered) -> dict[str, int]:
    """XLA's own analysis of what a program takes, in bytes on each device; it is compiled for that.

    `argument`: weights, statistics, slots and the batch. `output`: what it returns. `alias`: how much of the
    output takes over the memory of arguments. `temporary`: all else at its peak, feature maps above all.
    `peak`: argument + output - alias + temporary, what the device must have free; it holds neither what JAX
    itself takes beside the program nor the next batch on its way.
    """
    analysis: Any = lowered.compile().memory_analysis()
    found = {
        "argument": analysis.argument_size_in_bytes,
        "output": analysis.output_size_in_bytes,
        "alias": analysis.alias_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
    }
    peak = found["argument"] + found["output"] - found["alias"] + found["temporary"]
    return {**found, "peak": peak}
