"""The CPU engine on any PyTorch network: the same logits, sooner, and which kernel computes each layer."""

import time

import torch

import convatlas
from convatlas import engine


def milliseconds(network: torch.nn.Module, images: torch.Tensor) -> float:
    """The best of five calls, the first of which is not counted."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return 1000 * min(times[1:])


@torch.inference_mode()
def main() -> None:
    model = convatlas.create_model("vgg11_bn", num_classes=10, image_size=64, seed=0).eval()
    images = torch.randn(8, 3, 64, 64)
    if reason := engine.unavailable():
        print(f"the engine does not work here: {reason}")

    fast = engine.accelerate(model, images)

    expected, logits = model(images), fast(images)
    print(
        f"largest difference of the logits: {(logits - expected).abs().max() / expected.abs().max():.1e} of the largest"
    )
    print(f"PyTorch {milliseconds(model, images):.1f} ms, with the engine {milliseconds(fast, images):.1f} ms")
    for layer in fast.explain():
        print(f"{layer.layer:12} {layer.shape:32} {layer.kernel}")


if __name__ == "__main__":
    main()
