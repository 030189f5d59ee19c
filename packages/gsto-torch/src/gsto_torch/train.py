"""Predicting and training with PyTorch, by the contract of `gsto_spec.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsto_spec import Graph
from gsto_spec.backend import OPTIMIZER_PREFIX, Batch, Training
from gsto_spec.objective import SGD, Adam
from gsto_spec.weights import check_tensors
from gsto_torch.compile import CompiledGraph, compile, load_weights, weights_of
from gsto_torch.losses import objective_losses

Arrays = dict[str, NDArray[Any]]

_SLOTS = {"momentum_buffer": "momentum", "exp_avg": "first", "exp_avg_sq": "second"}
"""torch's names of optimiser slots, and gsto-spec's."""


class TorchPredictor:
    """A compiled graph in inference mode on one device; a `gsto_spec.backend.Predictor`."""

    def __init__(self, model: CompiledGraph, device: torch.device) -> None:
        self.device = device
        self.model = _channels_last(model.to(device))
        stored = (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
        self.dtype = next((tensor.dtype for tensor in stored), torch.float32)

    def predict(self, images: NDArray[Any]) -> Arrays:
        """Output name -> N x K x h x w, in the model's precision."""
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            outputs = self.model(self._images(images))
        self.model.train(was_training)
        return {name: output.cpu().numpy() for name, output in outputs.items()}

    def _images(self, images: NDArray[Any]) -> Tensor:
        moved = _moved(images, self.device).to(self.dtype)
        return moved.contiguous(memory_format=torch.channels_last)


def _channels_last(model: CompiledGraph) -> CompiledGraph:
    """Kernels in the layout that is fastest, but for those of one input channel.

    `Module.to` would give these channels_last strides too, which torch's CPU kernels misread (pytorch#82060).
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


class TorchTrainer(TorchPredictor):
    """A compiled graph with its objective and optimiser; a `gsto_spec.backend.Trainer`."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training,
        device: torch.device, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        super().__init__(compile(graph, weights, dtype=dtype), device)
        self.training = training
        named = self.model.named_parameters()
        self.parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.optimizer = _optimizer(training.optimizer, list(self.parameters.values()))
        if training.batch_norm_momentum is not None:
            _set_momentum(self.model, training.batch_norm_momentum)

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """Forward pass, gradient and update; the losses are those before the update, still on the device."""
        self.model.train()
        targets = {
            name: _moved(array, self.device)
            for name, array in batch.items() if name != "image"
        }  # fmt: skip
        losses = objective_losses(self.training.objective, self.model(self._images(batch["image"])), targets)
        self._update(losses["loss"], learning_rate)
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self, loss: Tensor, learning_rate: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # not where no output depends on a parameter
            loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters.values():
            # torch skips parameters without a gradient; the definition decays them all the same.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def state(self) -> Arrays:
        """Weights, running statistics and slots (`optimizer/momentum/NAME`, ...), copied to numpy."""
        state = weights_of(self.model)
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if key in _SLOTS and value is not None:
                    state[f"{OPTIMIZER_PREFIX}{_SLOTS[key]}/{name}"] = value.detach().cpu().numpy().copy()
                elif key == "step":
                    state[f"{OPTIMIZER_PREFIX}step"] = np.asarray(int(value))
        return state

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`; raises `WeightsError`, listing what does not fit, before anything changes."""
        weights = {name: array for name, array in state.items() if not name.startswith(OPTIMIZER_PREFIX)}
        slots = {
            name.removeprefix(OPTIMIZER_PREFIX): array for name, array in state.items() if name not in weights
        }
        expected = dict(self.model.graph.parameters) | (self._slot_shapes() if slots else {})
        check_tensors("state", expected, state)
        load_weights(self.model, weights)
        self.optimizer.state.clear()
        if slots:
            for name, parameter in self.parameters.items():
                self.optimizer.state[parameter] = self._restored(slots, name, parameter)

    def _slot_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {
            f"{OPTIMIZER_PREFIX}{kind}/{name}": tuple(parameter.shape)
            for kind in _slot_kinds(self.training.optimizer)
            for name, parameter in self.parameters.items()
        }
        return shapes | ({f"{OPTIMIZER_PREFIX}step": ()} if isinstance(self.training.optimizer, Adam) else {})

    def _restored(
        self, slots: Mapping[str, NDArray[Any]], name: str, parameter: nn.Parameter
    ) -> dict[str, Tensor]:
        state = {
            key: torch.empty_like(parameter).copy_(torch.from_numpy(np.array(slots[f"{kind}/{name}"])))
            for key, kind in _SLOTS.items() if f"{kind}/{name}" in slots
        }  # fmt: skip
        if "step" in slots:
            state["step"] = torch.tensor(float(slots["step"]), dtype=torch.float32)
        return state


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    # torch takes neither negative strides nor, without a warning, arrays that are read-only.
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    # Only from pinned memory does a copy not wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _slot_kinds(optimizer: SGD | Adam) -> tuple[str, ...]:
    return ("momentum",) if isinstance(optimizer, SGD) else ("first", "second")


def _optimizer(optimizer: SGD | Adam, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    match optimizer:
        case SGD():
            return torch.optim.SGD(
                parameters, lr=0.0, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay
            )
        case Adam():
            return torch.optim.Adam(
                parameters, lr=0.0, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon,
                weight_decay=optimizer.weight_decay,
            )  # fmt: skip
        case unknown:
            assert_never(unknown)


def _set_momentum(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
