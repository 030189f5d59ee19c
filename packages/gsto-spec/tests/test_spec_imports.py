"""What `import gsto_spec` brings with it, and what is public."""

import subprocess
import sys

import gsto_spec

HEAVY = ("torch", "jax", "flax", "safetensors", "click", "gsto_torch", "gsto_jax", "gsto_train")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_brings_numpy_and_nothing_heavy() -> None:
    loaded = modules_after("import gsto_spec")
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_third_party_modules_are_numpy_alone() -> None:
    third_party = {name.partition(".")[0] for name in modules_after("import gsto_spec")}
    third_party -= {name.partition(".")[0] for name in modules_after("import numpy")}
    assert third_party - set(sys.stdlib_module_names) == {"gsto_spec"}


def test_building_counting_and_evaluating_stay_free_of_frameworks() -> None:
    work = (
        "import gsto_spec, gsto_spec.objective, gsto_spec.backend, gsto_spec.weights; "
        "g = gsto_spec.build('gsto-hrnet-w18-small-v2'); gsto_spec.cost(g); gsto_spec.initial_weights(g)"
    )
    assert modules_after(work).isdisjoint(HEAVY)


def test_public_names_exist_once() -> None:
    assert sorted(set(gsto_spec.__all__)) == sorted(gsto_spec.__all__)
    assert [name for name in gsto_spec.__all__ if not hasattr(gsto_spec, name)] == []
