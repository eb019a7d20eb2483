"""The same network with two learning rates, three seeds each: a difference counts only beside its spread."""

import statistics

import convatlas

SEEDS = range(3)


def main() -> None:
    for rate in (4e-3, 4e-4):
        runs = [
            convatlas.train("lenet5", data="digits", image_size=16, epochs=4, learning_rate=rate, seed=seed)
            for seed in SEEDS
        ]
        accuracies = [run.card.best["validation_accuracy"] for run in runs]
        print(
            f"learning rate {rate:g}: validation accuracy {statistics.mean(accuracies):.1%} "
            f"± {statistics.stdev(accuracies):.1%} (standard deviation, n = {len(accuracies)} seeds)"
        )


if __name__ == "__main__":
    main()
