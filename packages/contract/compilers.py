"""How JAX compiles for tests."""

import os


def compile_quickly() -> None:
    """Spare XLA what it does for long runs; call it before JAX is imported.

    Tests run each program a few times on small arrays, so nearly all they take is XLA's compiling: six times
    more at full length, while the numbers lie within the same bounds. `test_jax_optimised.py` compiles as
    users do. To run any test so, set the first to 0 and the second to "".
    """
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
