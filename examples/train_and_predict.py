"""Train LeNet-5 on handwritten digits, then read a digit from a picture file with the run that is left."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import convatlas


def main() -> None:
    run = convatlas.train("lenet5", data="digits", image_size=28, epochs=10)
    print(f"test accuracy {run.card.test['accuracy']:.1%} on {run.card.test['n']} images")

    digits = load_digits()
    picture = Path("digit.png")
    Image.fromarray((digits.images[0] * 255 / 16).astype("uint8")).save(picture)

    prediction = convatlas.load(run.path).predict(picture)[0]
    print(f"{picture} shows a {prediction.label}; it is a {digits.target[0]}")


if __name__ == "__main__":
    main()
