"""Records of inspected networks to draw, made by hand: as the trace gives them, in the order in which calls end."""

from __future__ import annotations

from hypothesis import strategies as st

from convatlas.reports.inspected import inspected_model, layer_row


class Rows:
    """Rows with sources by place, as they are added."""

    def __init__(self):
        self.rows = []

    def add(self, name, operators, sources, **given):
        self.rows.append(layer_row(name, operators, sources, **given))
        return len(self.rows) - 1

    def conv(self, name, source, channels, side, kernel="3x3", tap=None, **given):
        """Convolution, batch norm, ReLU."""
        shape = {"output_shape": [1, channels, side, side]}
        conv = {"parameters": 9 * channels, "macs": 90 * channels, "activation_bytes": 4 * channels * side**2}
        given = {"type": "Conv2d", "detail": kernel} | conv | given
        place = self.add(f"{name}.conv", ["aten.convolution"], [source], **shape, **given)
        place = self.add(
            f"{name}.bn", ["aten.native_batch_norm"], [place], type="BatchNorm2d", parameters=2 * channels, **shape
        )
        return self.add(f"{name}.relu", ["aten.relu_"], [place], type="ReLU", tap=tap, **shape)


def plain_network(convs=3, side=32):
    """Convolutions one after another, the average of the maps, a dense layer."""
    rows, last = Rows(), -1
    for number in range(1, convs + 1):
        last = rows.conv(f"features.{number}", last, 8 * number, side, tap=f"conv{number}")
    last = rows.add("pool", ["aten.mean"], [last], type="AdaptiveAvgPool2d", output_shape=[1, 8 * convs, 1, 1])
    last = rows.add("", ["aten.view"], [last], type="Plain", output_shape=[1, 8 * convs])
    rows.add(
        "fc", ["aten.t", "aten.addmm"], [last], type="Linear", output_shape=[1, 10], parameters=80 * convs + 10, macs=80
    )
    return inspected_model(rows.rows, model="plain", input_shape=[1, 3, side, side])


def branched_network(modules=3, width=lambda _: 16):
    """Modules of three branches that are concatenated."""
    rows = Rows()
    last = rows.conv("stem", -1, 16, 28, tap="conv1")
    for module in range(1, modules + 1):
        name, side = f"mixed{module}", 28
        one = rows.conv(f"{name}.one", last, width(module), side, "1x1")
        two = rows.conv(f"{name}.two_b", rows.conv(f"{name}.two_a", last, 8, side, "1x1"), 16, side)
        pooled = rows.add(
            f"{name}.pool", ["aten.max_pool2d_with_indices"], [last], type="MaxPool2d", detail="3x3, padding 1",
            output_shape=[1, 16, side, side],
        )  # fmt: skip
        shape = [1, 32 + width(module), side, side]
        last = rows.add(name, ["aten.cat"], [one, two, pooled], type="Mixed", tap=f"mixed_{module}", output_shape=shape)
    return inspected_model(rows.rows, model="branched", input_shape=[1, 3, 28, 28])


def residual_network(blocks=4):
    """A stem and blocks with a shortcut, whose last ReLU has the block's paper's name."""
    rows = Rows()
    last = rows.conv("stem", -1, 16, 28)
    for block in range(1, blocks + 1):
        name = f"layer1.{block - 1}"
        inner = rows.conv(f"{name}.b", rows.conv(f"{name}.a", last, 16, 28), 16, 28)
        added = rows.add(name, ["aten.add"], [inner, last], type="Block", output_shape=[1, 16, 28, 28])
        last = rows.add(
            f"{name}.relu", ["aten.relu"], [added], type="ReLU", tap=f"conv2_{block}", output_shape=[1, 16, 28, 28]
        )
    return inspected_model(rows.rows, model="residual", input_shape=[1, 3, 28, 28])


OPERATORS = (
    ["aten.convolution"], ["aten.native_batch_norm"], ["aten.relu"], ["aten.add"], ["aten.cat"], ["aten.view"], [],
    ["aten.max_pool2d_with_indices"], ["aten.t", "aten.addmm"], ["custom.thing"],
)  # fmt: skip
counts = st.integers(0, 10**9)


@st.composite
def networks(draw, most=14):
    """Any acyclic network of any operators in any modules."""
    rows = []
    for place in range(draw(st.integers(0, most))):
        sources = draw(st.lists(st.integers(-1, place - 1), max_size=3, unique=True))
        name = ".".join(draw(st.lists(st.sampled_from("abc"), max_size=3)))
        row = layer_row(
            name, draw(st.sampled_from(OPERATORS)), sources, call=draw(st.integers(1, 2)), calls=2,
            type=draw(st.sampled_from(["Conv2d", "Block", "$\\frac$"])),
            tap=draw(st.sampled_from([None, "conv1", "猫"])),
            parameters=draw(counts), macs=draw(st.none() | counts), activation_bytes=draw(counts),
            detail=draw(st.sampled_from(["", "3x3, stride 2", "to 1x1"])),
            output_shape=draw(st.lists(st.integers(1, 512), max_size=4)),
        )  # fmt: skip
        rows.append(row)
    return inspected_model(rows)
