from contract.compilers import compile_quickly

compile_quickly()
