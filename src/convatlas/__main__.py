"""``python -m convatlas``, which ``torchrun`` and ``accelerate launch`` need."""

from convatlas.cli import main

main()
