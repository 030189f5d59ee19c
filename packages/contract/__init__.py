"""What holds of every backend, tested once: `pytest packages/contract --backend torch`.

Nothing here imports a framework. Tests reach one through `gsto_spec.backend`, through its package
(`gsto_torch`, `gsto_jax`: they offer the same functions), and through `contract.framework`.
"""
