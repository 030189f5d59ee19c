"""Two processes on the CPU do what one does with the same global batch.

This file is also the program that each process runs: every case, in one start.
"""

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from gsto_spec import Graph, GraphBuilder, GstoError, HRNet, Node, build, initial_weights
from gsto_spec.backend import BackendError, Training, share
from gsto_spec.objective import Adam, CrossEntropy, Heatmap, Objective, Ohem
from gsto_spec.ops import BatchNorm
from gsto_torch.backend import TorchBackend
from gsto_torch.processes import Processes

Arrays = dict[str, NDArray[Any]]
PROCESSES = 2
STEPS = 5


def small() -> Graph:
    """Two outputs, a gate, norms with biased and unbiased running variance, a layer that no output needs."""
    build = GraphBuilder(momentum=0.2)
    image = build.input("image", 2)
    x = build.relu(build.batch_norm("bn1", build.conv2d("conv1", image, 4, kernel=3, stride=2)))
    x = build.mul(build.sigmoid(build.conv2d("att.0", x, 1)), x)
    build.batch_norm("dead.1", build.conv2d("dead.0", x, 1))
    low = build.batch_norm("bn2", build.max_pool(x, 2, 2))
    united = build.concat([x, build.resize(low, like=x)])
    graph = build.graph(
        {"stage4": build.conv2d("head", united, 3, bias=True), "stage2": build.conv2d("aux", low, 3)}
    )
    return Graph(tuple(map(_biased, graph.nodes)), graph.outputs)


def _biased(node: Node) -> Node:
    if node.name != "bn2" or not isinstance(node.op, BatchNorm):
        return node
    return replace(node, op=replace(node.op, unbiased=False))


def gsto() -> Graph:
    return build(HRNet(
        widths=(2, 4, 6, 8), modules=(1, 1, 1), blocks=1, stem_width=4, layer1_width=2, layer1_blocks=1,
        classes=3, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised",
    ))  # fmt: skip


def labelled(
    seed: int, images: int = 4, channels: int = 2, ignored: float = 0.2, size: tuple[int, int] = (7, 6)
) -> Arrays:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (images, *size))
    label[draw.random(label.shape) < ignored] = 255
    return {"image": draw.standard_normal((images, channels, *size)), "label": label}


def uneven(seed: int) -> Arrays:
    """Of 4, 3 and 1 images; at times the second process's have no valid pixel, or none has."""
    batch = labelled(seed, images=(4, 3, 1, 4, 5)[seed % 5], ignored=1.0 if seed % 5 == 3 else 0.2)
    if seed % 5 == 0:
        batch["label"][2:] = 255
    return batch


def heatmaps(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    images = 3 + seed % 2
    return {
        "image": draw.standard_normal((images, 2, 7, 6)), "visibility": draw.integers(0, 2, (images, 3)),
        "heatmaps": draw.random((images, 3, 4, 3)),
    }  # fmt: skip


def pose() -> Graph:
    build = GraphBuilder(momentum=0.2)
    x = build.conv2d("conv1", build.input("image", 2), 4, kernel=3, stride=2)
    x = build.relu(build.batch_norm("bn1", x))
    return build.graph({"stage4": build.conv2d("final_layer", x, 3, bias=True)})


@dataclass(frozen=True)
class Case:
    training: Training
    batch: Callable[[int], Arrays] = uneven
    graph: Callable[[], Graph] = small


WEIGHTED = CrossEntropy(class_weights=(0.5, 1.0, 2.0))
# Aligned at the corners: else resizing repeats rows, whose equal probabilities only rounding tells apart.
HARD = CrossEntropy(class_weights=(0.5, 1.0, 2.0), ohem=Ohem(0.3, 12))
MINING = Objective(HARD, align_corners=True)
NORMS = frozenset({"bn1.weight", "bn2.weight", "dead.1.weight"})
CASES = {
    "sgd": Case(Training()),
    "class weights, adam": Case(Training(Objective(WEIGHTED), Adam(), 0.1)),
    "rate factors, frozen": Case(Training(
        frozen=frozenset({"bn1.weight", "aux.weight"}),
        rate_factors={"head.weight": 10.0, "conv1.weight": 0.5},
    )),
    "hard pixels, rematerialised": Case(Training(MINING, rematerialize=True)),
    "heatmaps": Case(Training(Objective(Heatmap((1.0, 1.2, 1.5))), Adam()), heatmaps, pose),
    "parts": Case(Training(Objective(WEIGHTED), frozen=NORMS, micro_batches=2), labelled),
    "parts, hard pixels": Case(
        Training(MINING, frozen=NORMS, micro_batches=2, rematerialize=True), labelled
    ),
    "parts, their own statistics": Case(Training(micro_batches=2), labelled),
    "uneven parts": Case(Training(MINING, micro_batches=2), lambda seed: labelled(seed, 6)),
    "everything frozen": Case(Training(frozen=frozenset(small().trainable))),
    "a gated network": Case(
        Training(rematerialize=True, deterministic=True),
        # Of more than a few values per norm at the lowest resolution, which would magnify what is rounded.
        lambda seed: labelled(seed, 3, channels=3, size=(97, 65)), gsto,
    ),
}  # fmt: skip


def trainer_of(case: Case, precision: str = "float64") -> Any:
    graph = case.graph()
    return TorchBackend().trainer(
        graph, initial_weights(graph), case.training, device="cpu", precision=precision
    )


def run(case: Case, cut: Callable[[Arrays], Arrays] = dict) -> tuple[list[dict[str, float]], Arrays]:
    trainer = trainer_of(case)
    losses = [trainer.step(cut(case.batch(step)), 0.1 / (1 + step)) for step in range(STEPS)]
    return [{name: float(value) for name, value in each.items()} for each in losses], trainer.state()


def own(batch: Arrays) -> Arrays:
    count, index = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    chosen = share(len(batch["image"]), index, count)
    return {name: array[chosen.start : chosen.stop] for name, array in batch.items()}


def refusals() -> dict[str, str]:
    """Errors of one process's batch that every process must raise; and training goes on."""
    index = int(os.environ["RANK"])
    build = GraphBuilder()
    x = build.batch_norm("bn", build.adaptive_avg_pool(build.input("image", 2), size=(1, 1)))
    single = build.graph({"stage4": build.conv2d("head", x, 3)})
    tried: dict[str, tuple[Case, Arrays]] = {
        "sizes": (Case(Training()), {n: a[:2, ..., : 6 - index] for n, a in labelled(0).items()}),
        "parts": (Case(Training(micro_batches=2)), own(labelled(0, 3))),
        "spread": (Case(Training(), graph=lambda: single), own(labelled(0, 1))),
    }
    found = {}
    for name, (case, batch) in tried.items():
        trainer = trainer_of(case)
        try:
            trainer.step(batch, 0.1)
        except GstoError as error:
            found[name] = str(error)
        found[f"{name}, afterwards"] = str(float(trainer.step(own(labelled(1)), 0.1)["finite"]))
    return found


def not_finite() -> dict[str, Any]:
    """A picture of the second process's is broken."""
    trainer = trainer_of(CASES["sgd"])
    trainer.step(own(labelled(0)), 0.1)
    before: Arrays = trainer.state()
    batch = labelled(1)
    batch["image"][3, 0, 2, 2] = np.nan
    named = trainer.first_not_finite(own(batch)), trainer.first_not_finite(own(labelled(1)))
    finite = [float(trainer.step(own(batch), 0.1)["finite"])]
    kept = _equal(before, trainer.state())
    finite.append(float(trainer.step(own(labelled(1)), 0.1)["finite"]))
    return {"named": named, "finite": finite, "kept": kept}


def _equal(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def alone(trainer: Any) -> list[str]:
    """What a process says whose fellow has died."""
    attempts = (
        lambda: trainer.step(own(labelled(0)), 0.1), lambda: trainer_of(CASES["sgd"]),
        lambda: TorchBackend().sum_over_processes(np.ones(1)),
    )  # fmt: skip
    told = []
    for attempt in attempts:
        try:
            attempt()
        except BackendError as error:
            told.append(str(error))
    return told


def as_one_of_two(folder: Path) -> None:
    """Run every case on this process's share and keep what came of it."""
    backend = TorchBackend()
    index = backend.process_index
    found: dict[str, Any] = {name: run(case, own) for name, case in CASES.items()}
    found["place"] = index, backend.process_count, backend.versions()["processes"]
    found["sum"] = backend.sum_over_processes(np.array([[2**53 + 1, -index], [index, 7]]))
    found["real sum"] = backend.sum_over_processes(np.full(2, 0.5 + index, np.float32))
    found["refusals"] = refusals()
    found["not finite"] = not_finite()
    trainer = trainer_of(CASES["sgd"])
    if index == 1:
        (folder / "1.pickle").write_bytes(pickle.dumps(found))
        die_after(folder / "ready")
    (folder / "ready").touch()
    found["alone"] = alone(trainer)
    (folder / "0.pickle").write_bytes(pickle.dumps(found))


def die_after(sign: Path) -> None:
    for _ in range(600):
        if sign.exists():
            break
        time.sleep(0.1)
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _variables(index: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder, port = tmp_path_factory.mktemp("processes"), _free_port()
    command = [sys.executable, "-W", "error", __file__, str(folder)]
    started = [
        subprocess.Popen(
            command, env=os.environ | _variables(index, port), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for index in range(PROCESSES)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * PROCESSES, "\n".join(told)
    assert told == [""] * PROCESSES
    return [pickle.loads((folder / f"{index}.pickle").read_bytes()) for index in range(PROCESSES)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name: str, found: list[dict[str, Any]]) -> None:
    losses, state = run(CASES[name])
    for process in found:
        assert [list(each) for each in process[name][0]] == [list(each) for each in losses]
        for each, wanted in zip(process[name][0], losses, strict=True):
            assert each == pytest.approx(wanted, rel=1e-10, abs=1e-14)
        assert list(process[name][1]) == list(state)
        for tensor, array in state.items():
            assert_allclose(process[name][1][tensor], array, rtol=1e-10, atol=1e-12, err_msg=tensor)


@pytest.mark.parametrize("name", CASES)
def test_processes_hold_the_same_state(name: str, found: list[dict[str, Any]]) -> None:
    first, second = (process[name] for process in found)
    assert first[0] == second[0]
    assert _equal(first[1], second[1])


def test_processes_know_their_place(found: list[dict[str, Any]]) -> None:
    assert [process["place"] for process in found] == [(0, 2, "2"), (1, 2, "2")]


def test_sums_are_exact(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert_array_equal(process["sum"], [[2**54 + 2, -1], [1, 14]])
        assert process["sum"].dtype == np.int64
        assert_array_equal(process["real sum"], np.full(2, 2.0))
        assert process["real sum"].dtype == np.float32


def test_what_one_process_refuses_all_refuse(found: list[dict[str, Any]]) -> None:
    wanted = {
        "sizes": "image: expected one size in all processes, found [[2, 2, 7, 6], [2, 2, 7, 5]]",
        "sizes, afterwards": "1.0",
        "parts": "micro_batches: expected a divisor of a batch of 3, found 2",
        "parts, afterwards": "1.0",
        "spread": "bn: expected more than one value per channel in training (a larger batch or picture), "
        "found an operand of 1 x 2 x 1 x 1 [batch_norm_c5]",
        "spread, afterwards": "1.0",
    }
    assert [process["refusals"] for process in found] == [wanted, wanted]


def test_a_picture_that_is_not_finite_is_everybodys(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["not finite"]["named"] == ("image", None)
        assert process["not finite"]["finite"] == [0.0, 1.0]
        assert process["not finite"]["kept"]


def test_a_process_that_is_left_alone_says_so_and_ends(found: list[dict[str, Any]]) -> None:
    assert len(found[0]["alone"]) == 3
    for told in found[0]["alone"]:
        assert told.startswith("process 0 of 2: expected the others, found one gone (")
        assert ".cc:" not in told
        assert told.endswith("; what that one printed says why")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"},
         "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: expected from torchrun beside RANK, found "
         "nothing"),
        (_variables(0, 1) | {"WORLD_SIZE": "two"},
         "WORLD_SIZE: expected a whole number from torchrun, found two"),
        (_variables(2, 1), "RANK: expected less than WORLD_SIZE, which is 2, found 2"),
    ],
)  # fmt: skip
def test_variables_that_do_not_fit_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError) as caught:
        Processes.of_environment(environment)
    assert str(caught.value) == message


def test_without_variables_there_is_one_process() -> None:
    assert Processes.of_environment({"PATH": "/bin"}) == Processes(0, 1, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    as_one_of_two(Path(sys.argv[1]))
