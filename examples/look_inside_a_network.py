"""The verbs that every network answers: features, head, taps by the paper's names, a new head."""

import torch

import convatlas


def main() -> None:
    model = convatlas.create_model("vgg11_bn_cifar", seed=0).eval()
    images = torch.randn(2, 3, 32, 32)

    feature_map = model.features(images)
    print("feature map", tuple(feature_map.shape), "-> logits", tuple(model.head(feature_map).shape))

    for name, tap in model.taps.items():
        print(f"{name:10} is the output of {tap.module:15} {tap.shape}")

    model.replace_head(num_classes=5)
    print("with a new head:", tuple(model(images).shape))


if __name__ == "__main__":
    main()
