"""What a command imports decides how long a person waits; these tests name the modules, the benchmark the seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "tensorboard", "scipy", "accelerate", "llvmlite")


def imported_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}


def command(*arguments: str) -> str:
    lines = f"sys.argv = ['convatlas', *{list(arguments)!r}]", "from convatlas.cli import main"
    return "\n".join([*lines, "try:", "    main()", "except SystemExit:", "    pass"])


@pytest.mark.parametrize(
    "code",
    [
        "import convatlas",
        command("--help"),
        command("train", "--help"),
        command("recipes"),
        command("recipes", "vgg-bn"),
        command("runs", "nowhere"),
        command("train", "lenet5"),
    ],
)
def test_light_commands_import_nothing_heavy(code: str) -> None:
    assert imported_after(code).isdisjoint(HEAVY)


def test_training_imports_only_what_it_needs(tmp_path: object) -> None:
    code = "import convatlas.api"
    unneeded = {"torchvision", "sklearn", "matplotlib", "tensorboard", "scipy", "llvmlite"}
    assert imported_after(code).isdisjoint(unneeded)


def test_describing_data_needs_no_torch() -> None:
    assert imported_after(command("data", "describe", "digits")).isdisjoint({"torch", "torchvision", "matplotlib"})
