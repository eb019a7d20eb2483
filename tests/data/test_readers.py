"""The formats of MNIST and CIFAR, and npz."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from convatlas.data.catalog import open_source
from convatlas.data.readers import cifar
from convatlas.data.readers.idx import read_idx
from convatlas.errors import DataError

RANDOM = np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_idx_folder(folder: Path, suffix: str = ".gz", joint: str = "-") -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    arrays = {}
    for prefix, count in (("train", 20), ("t10k", 10)):
        arrays[f"{prefix}-images{joint}idx3-ubyte"] = RANDOM.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        arrays[f"{prefix}-labels{joint}idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("joint", ["-", "."])
def test_an_idx_folder(tmp_path: Path, suffix: str, joint: str) -> None:
    arrays = make_idx_folder(tmp_path / "mine", suffix, joint)
    source = open_source(tmp_path / "mine")
    assert (source.name, source.classes, source.mirror) == ("mine", tuple("0123456789"), False)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{prefix}-images{joint}idx3-ubyte"], arrays[f"{prefix}-labels{joint}idx1-ubyte"]
        found = source.splits[split]  # type: ignore[index]
        assert (found.labels == labels).all()
        assert (np.asarray(found.image(7)) == images[7]).all()


def test_named_sets_are_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    make_idx_folder(tmp_path / "fashion-mnist")
    make_idx_folder(tmp_path / "mnist")
    fashion, digits = open_source("fashion-mnist"), open_source("mnist")
    assert (fashion.classes[9], fashion.mirror) == ("Ankle boot", True)
    assert (digits.classes[9], digits.mirror) == ("9", False)
    assert open_source(tmp_path / "fashion-mnist").classes == fashion.classes


def test_opening_an_idx_folder_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_idx_folder(tmp_path / "mine")
    monkeypatch.setattr("convatlas.data.readers.idx.read_idx", lambda _: pytest.fail("images were read"))
    assert len(open_source(tmp_path / "mine").classes) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"GIF89a" * 4, "is not an idx file"),
        (bytes([0, 0, 13, 1]) + struct.pack(">I", 1) + b"\0\0\0\0", "is not an idx file of unsigned bytes"),
        (idx_bytes(np.zeros((4, 2, 2), np.uint8))[:-1], "promises 16 bytes and holds 15"),
        (idx_bytes(np.zeros((4, 2, 2), np.uint8)) + b"\0", "promises 16 bytes and holds more"),
        (bytes([0, 0, 8, 3]) + b"\0\0", "is not an idx file"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_a_gzip_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(RANDOM.integers(0, 256, (9, 9, 9), dtype=np.uint8)))[:-30])
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path)


def test_a_missing_companion_is_named(tmp_path: Path) -> None:
    make_idx_folder(tmp_path / "mine")
    (tmp_path / "mine/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        open_source(tmp_path / "mine")


def test_labels_and_images_that_do_not_match(tmp_path: Path) -> None:
    make_idx_folder(tmp_path / "mine", suffix="")
    for labels, message in ((np.zeros(3), "20 images and train-labels-idx1-ubyte 3"), (np.full(20, 10), "label 10")):
        (tmp_path / "mine/train-labels-idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
        with pytest.raises(DataError, match=message):
            len(open_source(tmp_path / "mine").splits["train"])


CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FORMATS = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}


def make_batches(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "cifar10") -> dict[str, np.ndarray]:
    """Batches as the originals are, with their own checksums in place of the published ones; the pixels by file."""
    folder.mkdir(parents=True)
    form = FORMATS[kind]
    pixels = {}
    for name in (*form.train, *form.test):
        pixels[name] = RANDOM.integers(0, 256, (4, 3072), dtype=np.uint8)
        write_batch(folder / name, {"data": pixels[name], form.labels_key: [0, 1, 2, 3]}, form, monkeypatch)
    (meta,) = form.meta
    write_batch(folder / meta, {form.classes_key: CLASS_NAMES}, form, monkeypatch)
    return pixels


def write_batch(path: Path, batch: object, form: cifar.CifarFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(pickle.dumps(batch))
    for checksums in (form.train, form.test, form.meta):
        if path.name in checksums:
            monkeypatch.setitem(checksums, path.name, hashlib.md5(path.read_bytes()).hexdigest())  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "train_images"), [("cifar10", 20), ("cifar100", 4)])
def test_cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, train_images: int) -> None:
    pixels = make_batches(tmp_path / "set", monkeypatch, kind)
    source = open_source(tmp_path / "set")
    assert (source.name, source.classes, source.mirror) == (kind, tuple(CLASS_NAMES), True)
    assert len(source.splits["train"]) == train_images
    first = np.asarray(source.splits["train"].image(1))
    row = pixels[next(iter(FORMATS[kind].train))][1]
    assert (first[:, :, 0] == row[:1024].reshape(32, 32)).all()  # red comes first, row by row
    assert (first[:, :, 2] == row[2048:].reshape(32, 32)).all()
    assert source.splits["test"].labels.tolist() == [0, 1, 2, 3]


def test_cifar_from_the_original_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches(tmp_path / "cifar-10-batches-py", monkeypatch)
    (tmp_path / "cifar10").mkdir()
    with tarfile.open(tmp_path / "cifar10/cifar-10-python.tar.gz", "w:gz") as file:
        file.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    assert len(open_source("cifar10").splits["train"]) == 20
    assert len(open_source(tmp_path / "cifar10/cifar-10-python.tar.gz").splits["train"]) == 20


def test_cifar_unpacked_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches(tmp_path / "cifar100/cifar-100-python", monkeypatch, "cifar100")
    monkeypatch.setenv("CONVATLAS_DATA", str(tmp_path))
    assert len(open_source("cifar100").splits["train"]) == 4


def test_a_batch_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches(tmp_path / "set", monkeypatch)
    with (tmp_path / "set/data_batch_2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="data_batch_2 of cifar10 is damaged"):
        len(open_source(tmp_path / "set").splits["train"])


class Touch:
    """What a hostile pickle holds: a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches(tmp_path / "set", monkeypatch)
    trace = tmp_path / "was-run"
    hostile = {"data": Touch(trace), "labels": []}
    write_batch(tmp_path / "set/data_batch_1", hostile, cifar.CIFAR10, monkeypatch)
    with pytest.raises(DataError, match="asks for"):
        len(open_source(tmp_path / "set").splits["train"])
    assert not trace.exists()


def test_arrays_pickled_by_python_2_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real batches name numpy.core.multiarray, and hold their bytes as Python 2 strings."""
    make_batches(tmp_path / "set", monkeypatch)
    payload = bytes(range(256)) * 12
    length = struct.pack("<I", len(payload))
    old = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + length + payload + b"tbU\x06labels](K\x07eu."
    )
    path = tmp_path / "set/test_batch"
    path.write_bytes(old)
    monkeypatch.setitem(cifar.CIFAR10.test, "test_batch", hashlib.md5(old).hexdigest())  # type: ignore[arg-type]
    test = open_source(tmp_path / "set").splits["test"]
    assert test.labels.tolist() == [7]
    assert np.asarray(test.image(0))[:8, :, 0].ravel().tolist() == list(range(256))


def test_npz_with_images_and_labels(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (6, 7, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "shapes.npz", images=images, labels=[0, 1, 2, 0, 1, 2], classes=["disc", "square", "star"])
    source = open_source(tmp_path / "shapes.npz")
    assert (source.name, source.classes, list(source.splits)) == ("shapes", ("disc", "square", "star"), ["train"])
    assert (np.asarray(source.splits["train"].image(4)) == images[4]).all()
    assert source.splits["train"].name(4) == "train[4]"


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1), (4, 8, 8, 4)])
def test_npz_with_keras_keys(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    column = np.array([[0], [1], [0], [1]], dtype=np.uint8)
    np.savez_compressed(
        tmp_path / "s.npz", x_train=images, y_train=column, x_val=images, y_val=column, x_test=images, y_test=column
    )
    source = open_source(tmp_path / "s.npz")
    assert list(source.splits) == ["train", "validation", "test"]
    assert (source.classes, source.mirror) == (("0", "1"), False)
    assert source.splits["test"].labels.tolist() == [0, 1, 0, 1]
    assert (np.asarray(source.splits["test"].image(1)).reshape(shape[1:]) == images[1]).all()


GOOD = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": GOOD}, r"needs the keys images and labels, or x_train and y_train; received pictures"),
        ({"images": GOOD.astype(np.float32), "labels": [0, 1, 0, 1]}, "unsigned bytes, 0 to 255; received float32"),
        ({"images": GOOD[0], "labels": [0, 1, 0, 1, 0, 1, 0, 1]}, "received 8x8"),
        ({"images": np.zeros((4, 8, 8, 2), np.uint8), "labels": [0, 1, 0, 1]}, "received 4x8x8x2"),
        ({"images": GOOD, "labels": [0, 1]}, "holds 4 images for 2 labels"),
        ({"images": GOOD, "labels": [0.0, 1.0, 0.0, 1.0]}, "must be class numbers"),
        ({"images": GOOD, "labels": np.eye(4, dtype=int)}, "must be class numbers"),
        ({"images": GOOD, "labels": [-1, 1, 0, 1]}, "from 0; received -1"),
        ({"images": GOOD, "labels": [0, 1, 0, 2], "classes": ["a", "b"]}, "must name each of the 3 classes once"),
        ({"images": GOOD, "labels": [0, 1, 0, 1], "classes": ["a", "a"]}, "must name each of the 2 classes once"),
        ({"images": GOOD, "labels": [0, 1, 0, 10**12]}, "without gaps; received 1000000000000 for 4 images"),
        ({"images": GOOD, "labels": [0, 1, 0, 4]}, "without gaps; received 4 for 4 images"),
        (
            {"images": GOOD, "labels": [0, 1, 0, 10**12], "classes": ["a"]},
            "must name each of the 1000000000001 classes",
        ),
        ({"images": GOOD, "labels": np.array([0, 1, 0, 2**63], np.uint64)}, "must count classes from 0"),
        ({"images": GOOD, "labels": 1}, r"must be class numbers, \[N\]; received int64 \[\]"),
        ({"images": GOOD, "labels": [0, 1, 0, 1], "classes": "cats"}, r"must be a list of names, \[C\]; received \[\]"),
        ({"images": GOOD, "labels": [0, 1, 0, 1], "classes": [["a"], ["b"]]}, r"received \[2, 1\]"),
        ({"images": np.array([object()] * 4), "labels": [0, 1, 0, 1]}, "cannot be read"),
    ],
)
def test_npz_files_that_are_no_data_set(tmp_path: Path, content: dict[str, object], message: str) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, **content)
    with pytest.raises(DataError, match=message) as error:
        len(open_source(path).splits["train"])
    assert "\n" not in str(error.value)


def test_what_is_no_npz_at_all(tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"is not a \.npz file"):
        open_source(tmp_path / "s.npz")


def test_readers_do_without_torch(tmp_path: Path) -> None:
    make_idx_folder(tmp_path / "mine")
    script = (
        "import sys; from convatlas.data import open_source, prepare; from convatlas.data.audit import audit\n"
        "import convatlas.data.preprocessing, convatlas.data.augmentation, convatlas.data.grid\n"
        f"source = open_source({str(tmp_path / 'mine')!r}); audit(source); prepare(source, channels=1, resize=6)\n"
        "assert not {'torch', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
