"""Compiled against eager: what a framework's compiler makes of the same network.

The contract has no word for it, so only the frameworks named here are asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import noise
from conformance.cases import Case, Subject, trained_whole
from conformance.checks import MOMENTUM, compare, compare_inference, step

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Seen = tuple[Outputs, Outputs, Outputs]
"""Outputs, losses and gradients by name."""


def compiled(subject: Subject, case: Case) -> None:
    """Outputs, and the gradients of one step, in the modes that other tests do not use."""
    case = trained_whole(case)
    noise.require_fair(case, subject.precision)
    for mode, run in FRAMEWORKS[subject.name].items():
        with warnings.catch_warnings():
            # torch's compiler imports what torch deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            outputs, losses, gradients = run(subject, case)
        compare_inference(subject, case, f"outputs, {mode}", case.graph.outputs, outputs)
        compare(subject, case, "losses", losses, row=f"losses, {mode}")
        compare(subject, case, "gradients", gradients, row=f"gradients, {mode}")


def _torch_compiled(subject: Subject, case: Case) -> Seen:
    import torch

    import gsto_torch
    from gsto_torch.losses import objective_losses

    dtype = getattr(torch, subject.precision)
    network = gsto_torch.compile(case.graph, case.weights, dtype=dtype).to(subject.device)
    model = torch.compile(network)
    tensors = {name: torch.from_numpy(array).to(subject.device) for name, array in case.batch.items()}
    image = tensors["image"].to(dtype)
    with torch.inference_mode():
        network.eval()
        outputs = {name: output.cpu().numpy() for name, output in model(image).items()}
    network.train()
    losses = objective_losses(case.training.objective, model(image), tensors)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    slopes = {
        name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.cpu().numpy()
        for name, parameter in network.named_parameters()
    }
    return outputs, {name: loss.detach().cpu().numpy() for name, loss in losses.items()}, slopes


def _jax_eager(subject: Subject, case: Case) -> Seen:
    import jax

    with jax.disable_jit():
        return _by_contract(subject, case)


def _by_contract(subject: Subject, case: Case) -> Seen:
    outputs = subject.predictor(case.graph, case.weights).predict(case.image)
    trainer = subject.trainer(case)
    losses = step(subject, case, trainer)
    state = trainer.state()
    slopes = {name: state[f"{MOMENTUM}{name}"] for name in case.training.learnt(case.graph)}
    return outputs, {name: np.asarray(loss) for name, loss in losses.items()}, slopes


FRAMEWORKS: dict[str, dict[str, Callable[[Subject, Case], Seen]]] = {
    "torch": {"torch.compile": _torch_compiled},
    "jax": {"jit, fully optimised": _by_contract, "without jit": _jax_eager},
}
