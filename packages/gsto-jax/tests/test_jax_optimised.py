"""What XLA makes of a program when it tries as hard as it does for users, which the other tests spare it."""

import os
import subprocess
import sys
from pathlib import Path

CONTRACT = Path(__file__).parents[2] / "contract"
AS_USERS_COMPILE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
PROOFS = [
    "test_contract_trainer.py::test_steps_are_those_of_the_definition[jax-sgd]",
    "test_contract_trainer.py::test_steps_are_those_of_the_definition[jax-adam, ohem]",
    "test_contract_trainer.py::test_steps_in_float32_are_the_definitions_to_a_few_ulp[jax-optimizer4]",
    "test_contract_networks.py::test_both_forms_equal_the_definition_at_any_size[jax-release-size2]",
]


def test_networks_and_training_steps_are_those_of_the_definition_when_fully_optimised() -> None:
    proofs = [str(CONTRACT / proof) for proof in PROOFS]
    options = ["-q", "-p", "no:cacheprovider", "--backend", "jax"]
    command = [sys.executable, "-m", "pytest", *options, *proofs]
    environment = os.environ | AS_USERS_COMPILE
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
