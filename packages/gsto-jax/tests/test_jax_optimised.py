"""What XLA makes of a program when it tries as hard as it does for users, which the other tests spare it."""

import os
import subprocess
import sys
from pathlib import Path

AS_USERS_COMPILE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
PROOFS = [
    "test_jax_trainer.py::test_steps_are_those_of_the_definition[sgd]",
    "test_jax_trainer.py::test_steps_are_those_of_the_definition[adam, ohem]",
    "test_jax_trainer.py::test_steps_in_float32_are_the_definitions_to_a_few_ulp[optimizer4]",
    "test_jax_networks.py::test_both_forms_equal_the_definition_at_any_size[release-size1]",
]


def test_networks_and_training_steps_are_those_of_the_definition_when_fully_optimised() -> None:
    proofs = [str(Path(__file__).parent / proof) for proof in PROOFS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *proofs]
    environment = os.environ | AS_USERS_COMPILE
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
