"""From the name of a set to its three parts, and what is wrong with sets that cannot be used."""

import contextlib
import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwnas.config import from_mapping, to_mapping
from hwnas.errors import InputError
from hwnas.train.data import parquet as parquet_module
from hwnas.train.data.images import ArrayDataset, BadImageError, require_same_images, write_image_list
from hwnas.train.data.loader import EvalLoader
from hwnas.train.data.sources import (
    DataConfig,
    DataSplits,
    absolute_data_name,
    open_data,
    register_dataset,
    short_data_name,
)
from tests.train.data.image_files import pixels, png, write_folder, write_parquet

SHAPE = (3, 8, 8)
THREE = {"ant": 20, "bee": 30, "cat": 10}


def opened(name: object, *, classes: int = 3, shape: tuple[int, int, int] = SHAPE, **options: Any) -> DataSplits:
    return open_data(DataConfig(name=str(name), **options), image_shape=shape, num_classes=classes)


def keys_of(data: DataSplits) -> list[set[str]]:
    return [set(part.keys) for part in (data.train, data.heldout, data.test) if part is not None]


def counts(labels: Any) -> list[int]:
    return [int(count) for count in np.bincount(labels)]


def rows(count: int, classes: int = 3, *, seed: int = 0) -> list[tuple[bytes | None, int]]:
    return [(png(image), index % classes) for index, image in enumerate(pixels(count, seed=seed))]


# Folders.


def test_a_folder_with_training_and_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", THREE)
    write_folder(tmp_path / "val", {"cat": 3, "ant": 1, "bee": 2})
    (tmp_path / "train" / "ant" / "readme.txt").write_text("no image")
    data = opened(tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    assert counts(data.heldout.labels) == [2, 3, 1]
    assert counts(data.train.labels) == [18, 27, 9]
    assert data.test is not None
    assert counts(data.test.labels) == [1, 2, 3]
    assert data.notes == ()
    train, heldout, test = keys_of(data)
    assert not train & heldout
    assert all(key.startswith("train/") for key in train | heldout)
    assert all(key.startswith("val/") for key in test)
    key, label = data.train.keys[0], data.train.labels[0]
    number = int(Path(key).stem)
    expected = pixels(THREE["ant"], seed=0)[number]
    assert (key, label) == (f"train/ant/{number}.png", 0)
    assert (np.asarray(data.train.read(0)) == expected).all()


def test_a_folder_of_classes_alone_gives_its_test_images_too(tmp_path: Path) -> None:
    write_folder(tmp_path, THREE)
    data = opened(tmp_path)
    assert data.test is not None
    assert counts(data.test.labels) == [2, 3, 1]
    assert counts(data.heldout.labels) == [2, 2, 1]
    assert "6 of 60 images (10%) were split off for testing" in data.notes[0]
    assert sum(len(keys) for keys in keys_of(data)) == len(set.union(*keys_of(data))) == 60
    other = opened(tmp_path, seed=5)
    assert other.test is not None
    assert list(other.test.keys) == list(data.test.keys)
    assert list(other.heldout.keys) != list(data.heldout.keys)


def test_a_folder_without_test_images_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", THREE)
    data = opened(tmp_path)
    assert data.test is None
    assert "has no test images" in data.notes[0]
    assert data.notes[0].endswith("add a folder test/, val/, valid/ or validation/ beside train/")
    write_folder(tmp_path / "val", THREE)
    again = opened(tmp_path)
    assert again.test is not None
    assert again.notes == ()


def test_order_on_the_disk_does_not_matter(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "train", THREE)
    (tmp_path / "b").mkdir()
    for name in sorted(THREE, reverse=True):
        for path in sorted((tmp_path / "a" / "train" / name).iterdir(), reverse=True):
            target = tmp_path / "b" / "train" / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    first, second = opened(tmp_path / "a"), opened(tmp_path / "b")
    assert list(first.heldout.keys) == list(second.heldout.keys)
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_changes_with_the_split_and_the_labels(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", THREE)
    first = opened(tmp_path).fingerprint
    assert first == opened(tmp_path).fingerprint
    assert first != opened(tmp_path, seed=1).fingerprint
    assert first != opened(tmp_path, heldout=0.2).fingerprint
    assert first != opened(tmp_path, max_images=30).fingerprint
    moved = tmp_path / "train" / "ant" / "0.png"
    moved.rename(tmp_path / "train" / "bee" / "40.png")
    assert first != opened(tmp_path).fingerprint


def test_heldout_is_a_share_or_a_number_and_limit_counts_what_is_trained_on(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", THREE)
    assert len(opened(tmp_path, heldout=0.5).heldout) == 30
    data = opened(tmp_path, heldout=12, max_images=12)
    assert (len(data.heldout), len(data.train)) == (12, 12)
    assert counts(data.train.labels) == [4, 6, 2]
    assert set(data.heldout.keys) == set(opened(tmp_path, heldout=12).heldout.keys)
    whole = opened(tmp_path, heldout=0)
    assert set(whole.train.keys) == {*data.heldout.keys, *opened(tmp_path, heldout=12).train.keys}
    assert len(whole.heldout) == len(opened("digits-clutter", classes=10, max_images=50, heldout=0).heldout) == 0


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, None, "must have a folder of images for each class"),
        ({"ant": 5}, None, "at least two classes"),
        ({"ant": 5, "bee": 0}, None, "every class in .* must have images"),
        ({"ant": 5, "bee": 1}, None, "two training images"),
        ({"ant": 5, "bee": 5}, {"ant": 5, "cow": 5}, "must have the classes of the training images"),
        ({"ant": 5, "bee": 5}, {"ant": 5}, "every class in .* must have images"),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, train: dict[str, int], test: dict[str, int] | None, message: str
) -> None:
    (tmp_path / "train").mkdir()
    write_folder(tmp_path / "train", train)
    if test is not None:
        write_folder(tmp_path / "val", test)
    with pytest.raises(InputError, match=message):
        opened(tmp_path, classes=2)


def test_a_class_without_images_and_the_folder_above_the_classes_have_a_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", {"ant": 5, "bee": 5})
    write_folder(tmp_path / "a-few", {"ant": 1, "bee": 1})
    (tmp_path / "logs").mkdir()
    with pytest.raises(InputError, match=r"every class in .* must have images") as caught:
        opened(tmp_path)
    remedy = f"images in {tmp_path / 'logs'}, or that folder elsewhere"
    assert caught.value.hint == f"{remedy}; or --data {tmp_path / 'photos'}, if the classes are the folders in it"
    (tmp_path / "photos" / "cow").mkdir()
    with pytest.raises(InputError, match=r"every class in .* must have images") as caught:
        opened(tmp_path / "photos")
    assert caught.value.hint == f"images in {tmp_path / 'photos' / 'cow'}, or that folder elsewhere"
    with pytest.raises(InputError, match="data in one file must be Parquet") as caught:
        opened(tmp_path / "photos" / "ant" / "0.png")
    assert caught.value.hint == "--data DIR, with images in DIR/CLASS for each class"


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder or file") as caught:
        opened(tmp_path / "nowhere")
    assert caught.value.hint == "--data digits-clutter"
    (tmp_path / "photos" / "train.parquet").mkdir(parents=True)
    with pytest.raises(InputError, match="there is no folder or file") as caught:
        opened(tmp_path / "fotos" / "tran.parquet")
    assert caught.value.hint == f"--data {tmp_path / 'photos' / 'train.parquet'}"
    with pytest.raises(InputError, match="'digits-cluter' is not known") as caught:
        opened("digits-cluter")
    assert "digits-clutter" in caught.value.known
    (tmp_path / "file.csv").touch()
    with pytest.raises(InputError, match="must be Parquet"):
        opened(tmp_path / "file.csv")


def test_the_network_must_have_as_many_classes() -> None:
    with pytest.raises(InputError, match="digits has 10 classes, and so must the network") as caught:
        opened("digits", classes=1000)
    assert (caught.value.got, caught.value.hint) == (1000, "a network for 10 classes")
    with pytest.raises(InputError, match="1 or 3 channels"):
        opened("digits", classes=10, shape=(4, 8, 8))


# Parquet.


def test_parquet_in_the_layout_of_hugging_face(tmp_path: Path) -> None:
    written = rows(40), rows(20, seed=1), rows(9, seed=2)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", written[0], names=["x", "y", "z"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", written[1])
    write_parquet(tmp_path / "test.parquet", written[2])
    data = opened(tmp_path)
    assert data.classes == ("x", "y", "z")
    assert (len(data.train), len(data.heldout)) == (54, 6)
    assert data.test is not None
    assert data.test.keys[8] == "row 8 of test.parquet"
    assert (np.asarray(data.test.read(8)) == pixels(9, seed=2)[8]).all()
    both = {**dict(zip(data.train.keys, data.train.labels, strict=True)), **dict.fromkeys(data.heldout.keys, -1)}
    assert len(both) == 60
    index = next(i for i, key in enumerate(data.train.keys) if key == "row 17 of train-00001-of-00002.parquet")
    assert data.train.labels[index] == 17 % 3
    assert (np.asarray(data.train.read(index)) == pixels(20, seed=1)[17]).all()


@pytest.mark.parametrize("folder", ["", "data"])
def test_a_large_set_is_mapped_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    target = tmp_path / folder
    target.mkdir(exist_ok=True)
    write_parquet(target / "train.parquet", rows(30))
    write_parquet(target / "validation.parquet", rows(9))
    kept = opened(tmp_path)
    monkeypatch.setattr(parquet_module, "MEMORY_BYTES", 10)
    mapped = opened(tmp_path)
    assert mapped.fingerprint == kept.fingerprint
    for index in range(27):
        assert (np.asarray(mapped.train.read(index)) == np.asarray(kept.train.read(index))).all()


def test_one_parquet_file_gives_its_test_images_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", rows(30))
    data = opened(tmp_path / "all.parquet")
    assert [len(keys) for keys in keys_of(data)] == [24, 3, 3]
    assert "split off" in data.notes[0]


def test_a_row_that_holds_no_image_is_named(tmp_path: Path) -> None:
    content = rows(30)
    content[4], content[7] = (b"text", 1), (None, 1)
    write_parquet(tmp_path / "train.parquet", content)
    data = opened(tmp_path)
    bad = {}
    for part in (data.train, data.heldout):
        for index in range(len(part)):
            try:
                part.read(index)
            except BadImageError as error:
                bad[error.key] = error.reason
    assert set(bad) == {"row 4 of train.parquet", "row 7 of train.parquet"}
    assert bad["row 7 of train.parquet"] == "the row has no bytes"


def test_parquet_files_that_cannot_be_used(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        opened(tmp_path)
    for table, message in [
        ({"image": [b"x"] * 3, "class": [0, 1, 2]}, "must have the columns image and label"),
        ({"image": [b"x"] * 3, "label": ["a", "b", "c"]}, "must be whole numbers"),
        ({"image": [1, 2, 3], "label": [0, 1, 2]}, "must be bytes"),
        ({"image": [b"x"] * 3, "label": [0, 1, None]}, "must have a label"),
        ({"image": [b"x"] * 3, "label": [0, 1, -1]}, "must not be negative"),
    ]:
        parquet.write_table(pyarrow.table(table), path)
        with pytest.raises(InputError, match=message):
            opened(tmp_path)
    path.rename(tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"must have files train\*.parquet"):
        opened(tmp_path)


# Tar files.


def write_shard(path: Path, count: int, *, classes: bool = True, seed: int = 0) -> None:
    with tarfile.open(path, "w") as archive:
        for index, image in enumerate(pixels(count, seed=seed)):
            members = {"png": png(image), **({"cls": str(index % 3).encode()} if classes else {})}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{index:04}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def test_shards_are_read_by_number(tmp_path: Path) -> None:
    write_shard(tmp_path / "set-train-0.tar", 20)
    write_shard(tmp_path / "set-train-1.tar", 10, seed=1)
    write_shard(tmp_path / "set-validation-0.tar", 6, seed=2)
    data = opened(f"wds/{tmp_path}")
    assert (len(data.train), len(data.heldout)) == (27, 3)
    assert data.test is not None
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test.keys[5] == "0005 of set-validation-0.tar"
    assert (np.asarray(data.test.read(5)) == pixels(6, seed=2)[5]).all()
    batches = list(EvalLoader(data.test, image_shape=SHAPE, batch_size=4, workers=1))
    assert [len(batch) for batch in batches] == [4, 2]


def test_shards_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"files \*train\*.tar"):
        opened(f"wds/{tmp_path}")
    write_shard(tmp_path / "train.tar", 4, classes=False)
    with pytest.raises(InputError, match=r"suffix \.cls") as caught:
        opened(f"wds/{tmp_path}")
    assert caught.value.got == "4 have none, 0000 for example"
    (tmp_path / "train.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(InputError, match="uncompressed tar file"):
        opened(f"wds/{tmp_path}")


# Names of torchvision.


def test_a_set_of_torchvision(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", THREE)
    write_folder(tmp_path / "validation", THREE)
    data = opened("torch/image_folder", root=tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    assert (len(data.train), len(data.heldout)) == (54, 6)
    assert data.test is not None
    assert len(data.test) == 60
    assert (np.asarray(data.test.read(59)) == pixels(10, seed=2)[int(Path(data.test.keys[59]).stem)]).all()


def test_a_set_of_torchvision_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision keeps MNIST as a tensor of bytes; here is one without its files."""
    import torch
    from torchvision.datasets import MNIST

    def load(self: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(pixels(60, size=28, channels=1)[..., 0]), torch.arange(60) % 10

    monkeypatch.setattr(MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(MNIST, "_check_legacy_exist", lambda self: False)
    monkeypatch.setattr(MNIST, "_load_data", load)
    data = opened("torch/mnist", classes=10, root=tmp_path, heldout=10)
    assert data.classes[1] == "1 - one"
    assert isinstance(data.train, ArrayDataset)
    assert data.train.array.shape == (50, 28, 28, 1)
    assert data.train.keys[0].startswith("torch/mnist train ")


def test_sets_of_torchvision_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the folder"):
        opened("torch/cifar10", classes=10)
    with pytest.raises(InputError, match="torch/cifar10 must be in") as caught:
        opened("torch/cifar10", classes=10, root=tmp_path)
    assert caught.value.hint == "download it (--download)"
    with pytest.raises(InputError, match="'cifar11' is not known") as caught:
        opened("torch/cifar11", root=tmp_path)
    assert caught.value.hint == "--data torch/cifar10"


# Embedded sets.


def test_digits() -> None:
    data = opened("digits", classes=10, shape=(3, 16, 16))
    train, heldout, test = keys_of(data)
    assert [len(keys) for keys in (train, heldout, test)] == [1078, 360, 359]
    assert len(train | heldout | test) == 1797
    assert min(counts(data.heldout.labels)) >= 34
    assert isinstance(data.train, ArrayDataset)
    assert data.train.array.shape == (1078, 16, 16, 3)


def test_digits_clutter() -> None:
    data = opened("digits-clutter", classes=10, shape=(1, 24, 24), max_images=70, heldout=30)
    assert (len(data.train), len(data.heldout)) == (70, 30)
    assert data.test is not None
    assert len(data.test) == 2500
    assert data.train.keys[3] == "digits-clutter train 3"
    assert isinstance(data.train, ArrayDataset)
    assert data.train.array.shape == (70, 24, 24, 1)
    assert len(opened("digits-clutter", classes=10, max_images=50, heldout=0.2).heldout) == 10


# The config.


def test_the_config_is_read_from_plain_data() -> None:
    config = DataConfig(name="torch/mnist", root=Path("here"), heldout=100, max_images=5)
    assert from_mapping(DataConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "must have a name"),
        ({"heldout": 1.5}, "heldout must be a share"),
        ({"heldout": -3}, "heldout must be between 0"),
        ({"max_images": 0}, "max_images must be between 1"),
        ({"max_bad": -1}, "max_bad must be between 0"),
        ({"seed": -1}, "seed must be between 0 and 4294967295"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataConfig(**{"name": "digits", **values})


class Pairs:
    """Ten images of each of three classes, as a user's own map-style dataset."""

    def __init__(self, *, as_arrays: bool) -> None:
        self.as_arrays, self.reads = as_arrays, 0

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[object, int]:
        self.reads += 1
        pixels = np.full((8, 8, 3), 8 * index, dtype=np.uint8)
        return (pixels if self.as_arrays else Image.fromarray(pixels)), index % 3


@pytest.mark.parametrize("as_arrays", [False, True])
def test_a_dataset_object_has_a_name(*, as_arrays: bool) -> None:
    name = register_dataset("Pairs", Pairs(as_arrays=as_arrays), classes=("a", "b", "c"))
    assert name == "object/Pairs"
    data = open_data(DataConfig(name=name, heldout=0.2), image_shape=(3, 8, 8))
    assert data.test is not None
    assert (len(data.train) + len(data.heldout), len(data.test)) == (27, 3)
    assert data.classes == ("a", "b", "c")
    key = int(data.train.keys[0])
    assert np.asarray(data.train.read(0)).tolist() == np.full((8, 8, 3), 8 * key).tolist()
    again = open_data(DataConfig(name="OBJECT/pairs", heldout=0.2), image_shape=(3, 8, 8))
    assert again.fingerprint == data.fingerprint


def test_known_labels_of_a_dataset_object_are_not_read() -> None:
    pairs = Pairs(as_arrays=True)
    register_dataset("known", pairs, train_labels=[index % 3 for index in range(30)], test=Pairs(as_arrays=True))
    assert pairs.reads == 1  # the first image, for the digest
    with pytest.raises(InputError, match="one class index for each item"):
        register_dataset("short", pairs, train_labels=[0, 1])
    with pytest.raises(InputError, match="must be registered in this process"):
        open_data(DataConfig(name="object/unknown"), image_shape=(3, 8, 8))


@pytest.mark.parametrize("name", ["", "../a", "a\0b", "\ud800", "x" * 5000, "a/b"])
def test_a_dataset_object_has_a_name_that_files_can_hold(name: str) -> None:
    with pytest.raises(InputError, match="the name of a dataset must have 1 to 100 letters"):
        register_dataset(name, Pairs(as_arrays=True))


@pytest.mark.parametrize(
    ("items", "classes", "message"),
    [
        ([], None, "must have at least two classes"),
        ([(np.zeros((8, 8, 3), np.uint8), 0)] * 4, None, "must have at least two classes"),
        (Pairs(as_arrays=True), [], "must have at least two classes"),
        (Pairs(as_arrays=True), ["a", "b"], "must be numbers from 0 to 1"),
        (Pairs(as_arrays=True), "abc", "classes must be a list"),
    ],
)
def test_a_dataset_object_that_cannot_be_split_is_refused_at_once(items: Any, classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        register_dataset("few", items, classes=classes)
    with pytest.raises(InputError, match="must be registered"):
        open_data(DataConfig(name="object/few"), image_shape=(3, 8, 8))


def test_only_paths_of_data_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    names = ("digits", "torch/CIFAR10", "object/pairs", "photos", "wds/shards", "a/b")
    assert [absolute_data_name(name) for name in names] == [
        "digits",
        "torch/CIFAR10",
        "object/pairs",
        str(tmp_path / "photos"),
        f"wds/{tmp_path / 'shards'}",
        str(tmp_path / "a/b"),
    ]


# Names and files of all kinds.


def test_pipes_and_sockets_are_skipped_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", THREE)
    os.mkfifo(tmp_path / "images" / "ant" / "pipe.png")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server, contextlib.chdir(tmp_path / "images" / "bee"):
        server.bind("socket.jpg")
    data = opened(tmp_path / "images")
    assert sum(map(len, filter(None, (data.train, data.heldout, data.test)))) == sum(THREE.values())
    assert any("skipped 2 pipes" in note and "ant/pipe.png, bee/socket.jpg" in note for note in data.notes)


def test_a_file_that_became_a_pipe_is_an_unreadable_image(tmp_path: Path) -> None:
    write_folder(tmp_path, THREE)
    data = opened(tmp_path)
    file = tmp_path / data.train.keys[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BadImageError, match="is not an image") as caught:
        data.train.read(0)
    assert caught.value.reason == "a named pipe"


def test_names_that_are_not_utf8_work(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", THREE)
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/images/ant/caf\xe9.png")
    Path(strange).write_bytes(b"no image")
    data = opened(tmp_path / "images", heldout=20)
    splits = [part for part in (data.train, data.heldout, data.test) if part is not None]
    (part,) = [part for part in splits if any("caf" in key for key in part.keys)]
    write_image_list(tmp_path / "list.txt", part)
    require_same_images(tmp_path / "list.txt", part)
    index = next(index for index, key in enumerate(part.keys) if "caf" in key)
    with pytest.raises(BadImageError) as caught:
        part.read(index)
    assert caught.value.key == "ant/caf\\udce9.png"


def test_a_name_with_a_line_break_is_refused_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path, THREE)
    (tmp_path / "ant" / "a\nb.png").write_bytes(b"")
    with pytest.raises(InputError, match="no line breaks") as caught:
        opened(tmp_path)
    assert caught.value.got == "ant/a\\nb.png"


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "a\0b/c", "wds/a\0b", "caf\udce9", "a\nb", "/dev/null"])
def test_names_that_no_dataset_can_have(name: str) -> None:
    with pytest.raises(InputError):
        open_data(DataConfig(name=absolute_data_name(name)), image_shape=SHAPE)


def test_links_that_lead_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in (f"{tmp_path}/a", f"wds/{tmp_path}/a", f"{tmp_path}/a/c"):
        with pytest.raises(InputError, match="/a"):
            open_data(DataConfig(name=absolute_data_name(name)), image_shape=SHAPE)


def test_a_class_index_beyond_the_images_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    for number, label in enumerate((300_000_000, -1, 2**40)):
        write_parquet(tmp_path / f"{number}.parquet", [*rows(20), (png(pixels(1)[0]), label)])
        with pytest.raises(InputError, match="class indices of "):
            open_data(DataConfig(name=str(tmp_path / f"{number}.parquet")), image_shape=SHAPE)


def shard(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def named(name: str, **values: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(member, key, value)
    return member


def test_links_and_devices_in_a_shard_are_not_followed(tmp_path: Path) -> None:
    good = [
        entry
        for index in range(8)
        for entry in (
            (named(f"../../{index}.png"), png(pixels(1, seed=index)[0])),
            (named(f"../../{index}.cls"), str(index % 2).encode()),
        )
    ]
    hostile = [
        (named("/etc/passwd.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (named("pipe.png", type=tarfile.FIFOTYPE), b""),
        (named("linked.cls", type=tarfile.SYMTYPE, linkname="nowhere"), b""),
    ]
    shard(tmp_path / "train.tar", good + hostile)
    data = opened(f"wds/{tmp_path}", classes=2)
    assert len(data.train) + len(data.heldout) == 8


@pytest.mark.parametrize("content", [b"9" * 25, b"-1", b"x", b"", b"300000000"])
def test_class_indices_of_shards_are_checked(tmp_path: Path, content: bytes) -> None:
    shard(tmp_path / "train.tar", [(named("a.png"), png(pixels(1)[0])), (named("a.cls"), content)])
    with pytest.raises(InputError):
        opened(f"wds/{tmp_path}", classes=2)


def test_a_shard_whose_members_have_negative_sizes_does_not_hang(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [(named("a.png"), b"x" * 512), (named("a.cls"), b"0")])
    data = bytearray((tmp_path / "train.tar").read_bytes())
    member = tarfile.TarInfo("a.png")
    member.size = -1024
    data[:512] = member.tobuf(format=tarfile.GNU_FORMAT)
    (tmp_path / "train.tar").write_bytes(data)
    with pytest.raises(InputError, match="uncompressed tar file"):
        opened(f"wds/{tmp_path}", classes=2)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/home/me/photos", "photos"),
        ("wds//home/me/shards", "shards"),
        ("torch/cifar10", "torch/cifar10"),
        ("digits", "digits"),
    ],
)
def test_data_has_a_name_without_its_folders(name: str, short: str) -> None:
    assert short_data_name(name) == short
