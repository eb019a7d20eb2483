"""Sources of the engine's machine code, read by the compiler in `codegen`; imported only where they have to be compiled."""
