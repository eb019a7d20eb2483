"""Sources of the engine's machine code, in Numba; imported only where they have to be compiled."""
