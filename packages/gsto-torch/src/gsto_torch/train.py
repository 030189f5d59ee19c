"""Training with PyTorch, by the contract of `gsto_spec.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, SupportsFloat

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gsto_spec import Graph
from gsto_spec.backend import BackendError, Batch, Speed, Training, check_batch, split_state
from gsto_spec.memory import segments
from gsto_spec.ops import AdaptiveAvgPool, BatchNorm, Resize
from gsto_spec.precision import LOW, Precision
from gsto_spec.reference import require_spread
from gsto_torch.batch_norm import RunningStatistics, batch_norms, statistics_left_alone, synchronize
from gsto_torch.compile import load_weights, weights_of
from gsto_torch.determinism import deterministic_algorithms
from gsto_torch.losses import (
    Whole,
    label_weight,
    mines_hard_pixels,
    objective_losses,
    true_class_probabilities,
)
from gsto_torch.predict import TorchPredictor, compile_in, moved
from gsto_torch.processes import Processes
from gsto_torch.update import Arrays, LossScale, Update, all_finite

Part = tuple[Tensor, dict[str, Tensor]]
"""Images and targets on the device."""


class TorchTrainer(TorchPredictor):
    """A compiled graph with its objective and optimiser; a `gsto_spec.backend.Trainer`.

    With several processes all of them make it and call its methods together, and hold the same state.
    In float16 a step whose gradients overflow halves the loss scale and changes nothing else; it counts as
    finite unless the loss is not, or the scale was down to 1.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], training: Training,
        device: torch.device, precision: Precision, processes: Processes = Processes(),  # noqa: B008
        speed: Speed = "fast",
    ) -> None:  # fmt: skip
        if (problem := graph.training_form_violation()) is not None:
            raise problem
        learnt = training.learnt(graph)
        super().__init__(compile_in(graph, weights, precision), device, precision, speed)
        self.training, self.processes = training, processes
        named = dict(self.model.named_parameters())
        for name in named.keys() - (learnt.keys() & _reached(graph)):
            named[name].requires_grad_(False)
        self.update = Update(
            training.optimizer,
            {name: parameter for name, parameter in named.items() if name in learnt},
            training.rate_factors,
        )
        self.loss_scale = LossScale(device) if precision == "float16" else None
        self._prepare_batch_norms()
        if training.rematerialize:
            self.model.rematerialize(segments(graph))
        elif speed != "plain":
            # What is computed again must find its operands as they were.
            self.model.overwrite()
            if device.type == "cpu" and precision not in LOW:
                self.model.shorten()
        self.network = processes.distributed(self.model)

    def _prepare_batch_norms(self) -> None:
        if self.processes.count > 1:
            synchronize(self.model, self.processes)
        self.statistics = RunningStatistics(batch_norms(self.model))
        self.frozen_norms = [
            self.model.get_submodule(node.name)
            for node in self.model.graph.nodes
            if isinstance(node.op, BatchNorm) and node.operands[1] in self.training.frozen
        ]
        for norm in batch_norms(self.model):
            if self.training.batch_norm_momentum is not None:
                norm.momentum = self.training.batch_norm_momentum

    def step(self, batch: Batch, learning_rate: float) -> Mapping[str, SupportsFloat]:
        """Forward pass, gradient and update; the losses are those before the update, still on the device.

        Raises as `gsto_spec.backend.check_batch` does, and for a batch that `micro_batches` does not divide.
        """
        with self.processes.together(), deterministic_algorithms(self.training.deterministic):
            before = self.statistics.copy()
            losses = self._gradients(batch)
            finite = self._update(losses["loss"], learning_rate, before)
        return losses | {"finite": finite}

    def _update(self, loss: Tensor, learning_rate: float, before: Tensor) -> Tensor:
        gradients = [parameter.grad for parameter in self.update.parameters.values()]
        finite = all_finite(loss, [gradient for gradient in gradients if gradient is not None])
        finite = finite & self.statistics.values.isfinite().all()
        scale = None if self.loss_scale is None else self.loss_scale.factor
        self.update.step(learning_rate, finite, None if scale is None else scale / self.processes.count)
        self.statistics.keep_where(finite, before)
        if self.loss_scale is None or scale is None:
            return finite
        self.loss_scale.take_in(finite)
        return finite | (loss.isfinite() & (scale > 1))

    def first_not_finite(self, batch: Batch) -> str | None:
        """See `gsto_spec.backend.Trainer.first_not_finite`; by every process's share, told to them all."""
        found: dict[str, Tensor] = {}

        def watch(name: str, value: Tensor) -> None:
            bad = ~value.detach().isfinite().all()
            found[name] = found[name] | bad if name in found else bad

        with (
            self.processes.together(),
            deterministic_algorithms(self.training.deterministic),
            statistics_left_alone(batch_norms(self.model)),
        ):
            self.model.watch = watch
            try:
                losses = self._gradients(batch)
            finally:
                self.model.watch = None
            for name, value in self._statistics().items():
                watch(f"new {name}", value)
        self._watch_the_rest(watch, losses)
        order = [name for name in self._finite_order(losses) if name in found]
        bad = self.processes.summed(torch.stack([found[name] for name in order]).to(torch.int64))
        return next((name for name, count in zip(order, bad.tolist(), strict=True) if count), None)

    def _watch_the_rest(self, watch: Any, losses: Mapping[str, Tensor]) -> None:
        stored = self.model.state_dict()
        for name in self.model.graph.parameters:
            watch(name, stored[name])
        for name, loss in losses.items():
            watch(name, loss)
        for name, parameter in self.update.parameters.items():
            assert parameter.grad is not None
            watch(f"gradient of {name}", parameter.grad)
            parameter.grad = None

    def _finite_order(self, losses: Mapping[str, Tensor]) -> list[str]:
        nodes = [node.name for node in self.model.graph.order]
        outputs = [name for name in losses if name != "loss"]
        gradients = [f"gradient of {name}" for name in self.update.parameters]
        return [*nodes, *outputs, *gradients, *(f"new {name}" for name in self._statistics())]

    def _statistics(self) -> dict[str, Tensor]:
        """The running statistics as they are."""
        graph, stored = self.model.graph, self.model.state_dict()
        return {name: stored[name] for name in graph.parameters if name not in graph.trainable}

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the global batch; its gradients, times the loss scale, at the parameters."""
        self._train()
        images = self._agree(batch)
        parts = self._parts(batch, before=sum(images[: self.processes.index]))
        whole = self._whole(parts, images)
        for parameter in self.update.parameters.values():
            parameter.grad = None
        losses = [self._backward(part, whole, last=part is parts[-1]) for part in parts]
        for parameter in self.update.parameters.values():
            # torch skips parameters without a gradient; the definition decays them all the same.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = self.processes.summed(
            torch.stack([torch.stack(list(each.values())) for each in losses]).sum(0)
        )
        return dict(zip(losses[0], total.unbind(), strict=True))

    def _train(self) -> None:
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def _backward(self, part: Part, whole: Whole, *, last: bool) -> dict[str, Tensor]:
        with self._apart(last):
            losses = objective_losses(self.training.objective, self.network(part[0]), part[1], whole)
            # Averaged over the processes; in float16 the optimiser makes up for that.
            factor = self.processes.count if self.loss_scale is None else self.loss_scale.factor
            if losses["loss"].requires_grad:  # not where no output depends on a parameter
                (losses["loss"] * factor).backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    def _apart(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once, after the last part."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def _agree(self, batch: Batch) -> tuple[int, ...]:
        """How many images each process has. Raises on every process what is wrong with any of them."""
        check_batch(self.model.graph, self.training.objective, batch)
        _, *channels_and_size = batch["image"].shape
        shapes = self.processes.gathered(torch.tensor(batch["image"].shape)).tolist()
        if any(shape[1:] != channels_and_size for shape in shapes):
            raise BackendError(f"image: expected one size in all processes, found {shapes}")
        counts = tuple(shape[0] for shape in shapes)
        whole, parts = sum(counts), self.training.micro_batches
        if whole % parts:
            raise BackendError(f"micro_batches: expected a divisor of a batch of {whole}, found {parts}")
        channels, height, width = channels_and_size
        self._require_spread((whole // parts, channels, height, width))
        return counts

    def _require_spread(self, shape: tuple[int, int, int, int]) -> None:
        """What each process's own batch norms cannot know."""
        if self.processes.count == 1 or shape[0] > 1:
            return
        shapes = self.model.graph.check(shape)
        for node in self.model.graph.order:
            if isinstance(node.op, BatchNorm) and self.model.get_submodule(node.name).training:
                require_spread(node.name, shapes[node.operands[0]])

    def _parts(self, batch: Batch, before: int) -> list[Part]:
        """This process's share of every part; `before` images of the global batch come before its own."""
        count = self.training.micro_batches
        return [self._part(batch, slice((index - before) % count, None, count)) for index in range(count)]

    def _part(self, batch: Batch, chosen: slice) -> Part:
        targets = {name: array[chosen] for name, array in batch.items() if name != "image"}
        placed = {name: moved(array, self.device) for name, array in targets.items()}
        return self._images(batch["image"][chosen]), placed

    def _whole(self, parts: list[Part], images: tuple[int, ...]) -> Whole:
        objective = self.training.objective
        weight = torch.stack([label_weight(objective, targets) for _, targets in parts]).sum()
        known = (
            self._probabilities(parts, max(images)) if len(parts) > 1 and mines_hard_pixels(objective) else {}
        )

        def probabilities(name: str, own: Tensor) -> Tensor:
            return known[name] if known else self._everyones(own, max(images))

        return Whole(sum(images), self.processes.summed(weight), probabilities)

    def _probabilities(self, parts: list[Part], images: int) -> dict[str, Tensor]:
        """What hard pixels are chosen by, of every part: a forward pass that leaves no trace."""
        with torch.no_grad(), statistics_left_alone(batch_norms(self.model)):
            found = [
                true_class_probabilities(self.training.objective, self.model(part), targets)
                for part, targets in parts
            ]
        return {name: self._everyones(torch.cat([each[name] for each in found]), images) for name in found[0]}

    def _everyones(self, own: Tensor, images: int) -> Tensor:
        """Every process's probabilities; those with fewer images than `images` add ones of no pixel."""
        missing = own.new_full((images - own.shape[0], *own.shape[1:]), torch.inf)
        return self.processes.gathered(torch.cat([own, missing]) if len(missing) else own)

    def state(self) -> Arrays:
        """Weights, running statistics and slots (`optimizer/momentum/NAME`, ...), copied to numpy."""
        scale = {} if self.loss_scale is None else self.loss_scale.state()
        return weights_of(self.model) | self.update.state() | scale

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`; raises `WeightsError`, listing what does not fit, before anything changes."""
        weights, slots = split_state(self.model.graph, self.training, state)
        load_weights(self.model, weights)
        self.update.load({name: slot for name, slot in slots.items() if not name.startswith("loss_scale")})
        if self.loss_scale is not None:
            self.loss_scale.load(slots)


def _reached(graph: Graph) -> set[str]:
    """The nodes and leaves that a gradient of the outputs comes to."""
    found: set[str] = set()
    pending = list(graph.outputs.values())
    while pending:
        node = graph.by_name[pending.pop()]
        if node.name not in found:
            found.add(node.name)
            sized = isinstance(node.op, (Resize, AdaptiveAvgPool))
            pending += node.operands[:1] if sized else node.operands
    return found
