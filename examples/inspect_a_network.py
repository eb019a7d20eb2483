"""The truth about a network before training it: one of ours, then one of torchvision's."""

import torchvision

import convatlas

for network in ("vgg16", "resnet50"):
    inspection = convatlas.inspect(network, batch_size=16)
    assert inspection.memory is not None
    print(
        f"{network}: {inspection.parameters:,} parameters, {inspection.macs:,} multiply-adds, "
        f"{inspection.memory.training_peak_bytes / 1e9:.2f} GB to train with batches of 16"
    )

print("conv5_3 of VGG-16 sees", convatlas.inspect("vgg16").layer("conv5_3").receptive_field)

inspection = convatlas.inspect(torchvision.models.shufflenet_v2_x1_0(), (3, 224, 224))
for layer in inspection.layers[:8]:
    print(layer.name, layer.type, layer.detail, layer.output_shape, layer.macs, layer.receptive_field)
