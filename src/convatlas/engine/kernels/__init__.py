"""Sources of the engine's machine code: read by the compiler in `codegen`, imported only where that is needed."""
