"""The CPU engine against the runtimes a user would pick, in one run: forward passes and training steps.

    python benchmarks/engine.py --save                                     # everything: more than an hour
    python benchmarks/engine.py --quick
    python benchmarks/engine.py --only vgg16 training/resnet18 --batch 8 128 --contenders ours eager onnxruntime

Ours (`convatlas.engine.accelerate`) against PyTorch eager, in channels_last, compiled, and both; ONNX Runtime, OpenVINO
and Keras on TensorFlow, all float32, with the same weights, images and number of threads. Each contender has a process
of its own, and they take turns, so that a noisy minute is everybody's; whoever waits is stopped. A training step is
forward, cross entropy, backward and SGD with momentum.

Prints for each workload the median time; how many times as fast ours is, as the median of the rounds' ratios; the error
against PyTorch in float64 (of the logits, in training of the gradients: largest absolute error / largest absolute
value); the peak resident memory of the process; and effective GFLOP/s: the multiply-adds of direct convolution, twice,
by the time. --save keeps every time measured in results/, with the hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from contenders import CONTENDERS, OURS, PYTORCH_PEERS, Job
from turns import FailedError, Failure, Finish, Ready, Report, Turn, Worker, in_own_process
from workloads import EAGER, FASTEST, PYTORCH, QUICK, WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("convatlas", "torch", "torchvision", "llvmlite", "numpy", "onnxruntime", "openvino", "keras", "tensorflow")
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd")  # of those in /proc/cpuinfo
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                    "TORCHINDUCTOR_COMPILE_THREADS")  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How long is measured, and with what."""

    contenders: list[str]
    threads: int
    rounds: int | None  # None: as many as fit
    seconds: float  # for the turns of one workload, all contenders together


@dataclass
class Entry:
    """One contender in one workload: how it started, its times in each round, and its report; or why it failed."""

    name: str
    ready: Ready | None = None
    rounds: list[list[float]] = field(default_factory=list)  # seconds of each repetition
    report: Report | None = None
    failure: Failure | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(seconds for turn in self.rounds for seconds in turn)

    @property
    def range(self) -> tuple[float, float]:
        """Seconds of the fastest and the slowest repetition."""
        every = [seconds for turn in self.rounds for seconds in turn]
        return min(every), max(every)


@dataclass(frozen=True)
class Result:
    """One workload, timed."""

    workload: Workload
    multiply_adds: int
    ceiling: float  # GFLOP/s
    entries: list[Entry]

    @property
    def finished(self) -> dict[str, Entry]:
        """Those that were timed to the end, by name."""
        return {entry.name: entry for entry in self.entries if entry.failure is None and entry.rounds}


@dataclass(frozen=True)
class Comparison:
    """A line of the summary: ours against one peer. ``ratio`` above 1: ours is faster."""

    workload: Workload
    against: str
    peer: Entry
    ours: Entry
    goal: float | None

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(round_ratios(self.peer, self.ours))

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest of one round."""
        ratios = round_ratios(self.peer, self.ours)
        return min(ratios), max(ratios)


def round_ratios(peer: Entry, ours: Entry) -> list[float]:
    """How many times as fast ours was in each round, by the medians of two turns in the same minute."""
    pairs = zip(peer.rounds, ours.rounds, strict=True)
    return [statistics.median(theirs) / statistics.median(own) for theirs, own in pairs]


def measure(workload: Workload, settings: Settings) -> Result:
    """Build every contender, let them take turns, and ask for their reports."""
    with TemporaryDirectory(prefix="convatlas-engine-") as folder, ExitStack() as stack:
        job = Job("", workload, Path(folder), settings.threads)
        present = [name for name in settings.contenders if CONTENDERS[name].missing() is None]
        facts = in_own_process("networks", "prepare", job, present)
        entries = [Entry(name) for name in settings.contenders if workload.task in CONTENDERS[name].tasks]
        workers: dict[str, Worker] = {}
        for entry in entries:
            with recorded(entry):
                workers[entry.name] = start(entry, replace(job, contender=entry.name), stack)
        take_turns(entries, workers, settings)
        for entry in running(entries):
            with recorded(entry):
                entry.report = workers[entry.name].ask(Finish())
            workers[entry.name].close()  # its memory is for the next one, which computes its error
        return Result(workload, facts.multiply_adds, facts.ceiling, entries)


@contextmanager
def recorded(entry: Entry) -> Iterator[None]:
    """A contender that fails is named with its reason, and the others go on."""
    try:
        yield
    except FailedError as error:
        entry.failure = error.failure


def running(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.failure is None]


def start(entry: Entry, job: Job, stack: ExitStack) -> Worker:
    missing = CONTENDERS[job.contender].missing()
    if missing:
        raise FailedError(Failure(missing, absent=True))
    worker = stack.enter_context(Worker(job, log=job.folder / f"{job.contender}.log"))
    try:
        entry.ready = worker.start()
    except FailedError:
        worker.close()
        raise
    return worker


def take_turns(entries: list[Entry], workers: dict[str, Worker], settings: Settings) -> None:
    """Rounds of one turn each; every round starts with another contender, so that nobody always follows the same."""
    rounds, repetitions = plan(running(entries), settings)
    for number in range(rounds):
        order = running(entries)
        first = number % max(1, len(order))
        for entry in order[first:] + order[:first]:
            with recorded(entry):
                entry.rounds.append(workers[entry.name].ask(Turn(repetitions[entry.name])))


def plan(entries: list[Entry], settings: Settings) -> tuple[int, dict[str, int]]:
    """How many rounds, and how often each contender repeats in its turn: equal shares of the time there is."""
    seconds = {entry.name: entry.ready.repetition_seconds for entry in entries if entry.ready is not None}
    rounds = settings.rounds or min(10, max(3, int(settings.seconds / (sum(seconds.values()) or 1))))
    share = settings.seconds / rounds / max(1, len(seconds))
    return rounds, {name: min(20, max(1, int(share / each))) for name, each in seconds.items()}


def compare(result: Result) -> list[Comparison]:
    """Ours against the peers of the goals, and against the fastest in any case; nothing where ours was not timed."""
    finished = result.finished
    ours = finished.pop(OURS, None)
    if ours is None:
        return []
    goals = {goal.against: goal.ratio for goal in result.workload.goals}
    comparisons = []
    for against in dict.fromkeys([FASTEST, *goals]):
        peers = peers_of(against, finished)
        if peers:
            peer = min(peers, key=lambda entry: entry.median)
            comparisons.append(Comparison(result.workload, against, peer, ours, goals.get(against)))
    return comparisons


def peers_of(against: str, entries: dict[str, Entry]) -> list[Entry]:
    names = {FASTEST: tuple(entries), EAGER: ("eager",), PYTORCH: PYTORCH_PEERS}[against]
    return [entries[name] for name in names if name in entries]


COLUMNS = "{:23}{:>11}{:>19}{:>11}{:>10}{:>10}{:>9}{:>9}".format


def table(result: Result) -> Iterator[str]:
    """The lines of one workload."""
    yield f"{result.workload.name}; a matrix product reaches {result.ceiling:.0f} GFLOP/s"
    yield COLUMNS("", "median ms", "range ms", "images/s", "ours is", "error", "peak MB", "GFLOP/s")
    for entry in result.entries:
        yield row(entry, result)
    for entry in result.finished.values():
        if entry.ready is not None and entry.ready.note:
            yield f"({entry.name}: {entry.ready.note})"


def row(entry: Entry, result: Result) -> str:
    if entry.name not in result.finished:
        failure = entry.failure or Failure("not timed")
        return f"{entry.name:23}  {'absent' if failure.absent else 'failed'}: {failure.reason}"
    median = entry.median
    ours = result.finished.get(OURS)
    error = entry.report.error if entry.report is not None else None
    return COLUMNS(
        entry.name,
        f"{median * 1e3:.2f}",
        "{:.2f}-{:.2f}".format(*(seconds * 1e3 for seconds in entry.range)),
        f"{result.workload.batch / median:.1f}",
        f"{statistics.median(round_ratios(entry, ours)):.2f} x" if ours else "-",
        "-" if error is None else f"{error:.1e}",
        f"{entry.report.peak_bytes / 2**20:.0f}" if entry.report is not None else "-",
        f"{2 * result.multiply_adds / median / 1e9:.0f}",
    )


def summary(results: list[Result]) -> Iterator[str]:
    """Markdown."""
    yield "| work | ours, ms | against | ms | ratio | in each round | goal |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        comparisons = compare(result)
        if not comparisons:
            yield f"| {result.workload.name} | - | - | - | - | - | - |"
        for each in comparisons:
            low, high = each.spread
            ours, peer = (f"{entry.median * 1e3:.1f}" for entry in (each.ours, each.peer))
            ratios = f"{each.ratio:.2f} | {low:.2f}-{high:.2f}"
            yield f"| {result.workload.name} | {ours} | {against(each)} | {peer} | {ratios} | {goal(each)} |"


def against(comparison: Comparison) -> str:
    name = comparison.peer.name
    return name if comparison.against == EAGER else f"{comparison.against}: {name}"


def goal(comparison: Comparison) -> str:
    if comparison.goal is None:
        return "-"
    return f"{comparison.goal:.1f}, {'reached' if comparison.ratio >= comparison.goal else 'missed'}"


def record(results: list[Result], settings: Settings, where: dict[str, object]) -> dict[str, object]:
    """For JSON: every time measured, in milliseconds, and what the summary says of them."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "environment": where,
        "workloads": [
            {
                **asdict(result.workload),
                "name": result.workload.name,
                "multiply_adds": result.multiply_adds,
                "ceiling_gflops": round(result.ceiling, 1),
                "contenders": {entry.name: entry_record(entry) for entry in result.entries},
                "comparisons": [
                    {
                        "against": each.against,
                        "peer": each.peer.name,
                        "ratio": round(each.ratio, 3),
                        "range": [round(ratio, 3) for ratio in each.spread],
                        "goal": each.goal,
                    }
                    for each in compare(result)
                ],
            }
            for result in results
        ],
    }


def entry_record(entry: Entry) -> dict[str, object]:
    if entry.failure is not None:
        return {"absent" if entry.failure.absent else "failed": entry.failure.reason}
    return {
        "median_ms": round(entry.median * 1e3, 3) if entry.rounds else None,
        "rounds_ms": [[round(seconds * 1e3, 3) for seconds in turn] for turn in entry.rounds],
        **(asdict(entry.ready) if entry.ready is not None else {}),
        **(asdict(entry.report) if entry.report is not None else {}),
    }


def environment() -> dict[str, object]:
    cpu = cpu_fields()
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "instructions": [name for name in INSTRUCTIONS if name in cpu.get("flags", cpu.get("Features", "")).split()],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def cpu_fields() -> dict[str, str]:
    """What /proc/cpuinfo says of one core; nothing where there is no such file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def save(recorded: dict[str, object]) -> Path:
    """A new file of today's date; several runs of a day are numbered."""
    RESULTS.mkdir(exist_ok=True)
    names = (f"{datetime.now(UTC):%Y-%m-%d}-engine{suffix}.json" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    path = next(RESULTS / name for name in names if not (RESULTS / name).exists())
    text = json.dumps(recorded, indent=2)
    on_one_line = re.sub(r"\[[^][{}]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)
    path.write_text(on_one_line + "\n")
    return path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="VGG-16, ResNet-18 and VGG-16-BN training, a short look")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="a network, a task, or task/network")
    parser.add_argument("--batch", nargs="+", type=int, default=[])
    parser.add_argument("--rounds", type=int, help="turns of each; else as many as fit, 3 to 10")
    parser.add_argument("--seconds", type=float, help="for the turns of a workload; 40, or 10 with --quick")
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME",
                        help=", ".join(CONTENDERS))  # fmt: skip
    parser.add_argument("--save", action="store_true", help="write results/<date>-engine.json")
    arguments = parser.parse_args()
    chosen = QUICK if arguments.quick else WORKLOADS
    arguments.workloads = [workload for workload in chosen if workload.selected(arguments.only, arguments.batch)]
    if not arguments.workloads:
        parser.error(f"no workload is left; the networks are {', '.join(sorted({each.network for each in chosen}))}")
    return arguments


def set_environment(threads: int) -> None:
    """For the processes to come; libraries read these when they are loaded."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ.update(CUDA_VISIBLE_DEVICES="", KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2")


def main() -> None:
    arguments = parse()
    set_environment(arguments.threads)
    seconds = arguments.seconds or (10.0 if arguments.quick else 40.0)
    settings = Settings(arguments.contenders, arguments.threads, arguments.rounds, seconds)
    where = environment()
    print(
        f"{where['cpu']}, {where['cores']} cores, {settings.threads} threads each, load {where['load']}\n", flush=True
    )
    results = []
    for workload in arguments.workloads:
        try:
            results.append(measure(workload, settings))
        except Exception as error:  # of the preparation: the other workloads may still do
            print(f"{workload.name}: failed: {type(error).__name__}: {error}\n", flush=True)
        else:
            print(*table(results[-1]), "", sep="\n", flush=True)
    print(*summary(results), sep="\n")
    if arguments.save:
        print(save(record(results, settings, where)))


if __name__ == "__main__":
    main()
