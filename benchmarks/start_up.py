"""How long a person waits before anything happens: whole processes, side by side with Python and `import torch`.

    python benchmarks/start_up.py

Prints medians and the range of several interleaved runs; `train` is timed to its first optimiser step on a decoded set.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7

FIRST_STEP = """
import os
import convatlas
from convatlas.training.progress import Silent
class First(Silent):
    def step(self, report):
        os._exit(0)
convatlas.train("lenet5", data="digits", image_size=28, out=str(os.getpid()), watch=First())
"""

PYTHON = sys.executable
CONVATLAS = str(Path(sys.executable).with_name("convatlas"))

COMMANDS = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "import convatlas": [PYTHON, "-c", "import convatlas"],
    "convatlas --help": [CONVATLAS, "--help"],
    "convatlas recipes": [CONVATLAS, "recipes"],
    "import torch": [PYTHON, "-c", "import torch"],
    "train, to its first step": [PYTHON, "-c", FIRST_STEP],
}


def seconds(command: list[str], folder: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(RUNS + 1):
            for name, command in COMMANDS.items():
                taken = seconds(command, folder)
                if run:  # the first warms the disk cache and decodes the digits
                    times[name].append(taken)
    for name, taken in times.items():
        print(f"{name:26} {statistics.median(taken):6.2f} s   ({min(taken):.2f} to {max(taken):.2f}, n = {RUNS})")
    beyond = statistics.median(times["train, to its first step"]) - statistics.median(times["import torch"])
    print(f"first step beyond `import torch`: {beyond:.2f} s")


if __name__ == "__main__":
    main()
