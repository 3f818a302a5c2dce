"""Images in Parquet files with columns `image` and `label`, as Hugging Face writes them."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.devices.memory import available_bytes
from hwnas.errors import InputError
from hwnas.files import cannot, file_errors, require_regular
from hwnas.train.data.images import DECODER_ERRORS, BadImageError, Labels, decode_image, require_labels

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_BYTES = 4 << 30
"""Encoded images are held in memory up to this size; larger datasets are copied to a temporary file and mapped."""


@dataclass(frozen=True)
class ParquetDataset:
    """Encoded images in memory or in a mapped file, decoded when they are read."""

    files: tuple[str, ...]
    starts: tuple[int, ...]
    """Index of the first image of each file."""
    column: Any
    """A pyarrow column of bytes."""
    labels: Labels

    @cached_property
    def keys(self) -> Sequence[str]:
        """Row and file of each image."""
        ends = (*self.starts[1:], len(self))
        spans = zip(self.files, self.starts, ends, strict=True)
        return [f"row {row} of {file}" for file, start, end in spans for row in range(end - start)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        try:
            data = self.column[index].as_py()
        except DECODER_ERRORS as error:
            raise BadImageError(self.keys[index], error) from error
        if data is None:
            raise BadImageError(self.keys[index], "the row has no bytes")
        return decode_image(data, self.keys[index])


def is_parquet(path: Path) -> bool:
    """Return True if a path is a Parquet file or a folder of them."""
    return path.suffix == ".parquet" or any(find_parquet_files(path, (prefix,)) for prefix in ("train", "test", "val"))


def find_parquet_files(path: Path, prefixes: Sequence[str]) -> list[Path]:
    """Return the files of the first prefix that has any, in the folder or in its `data`."""
    for folder, prefix in itertools.product((path, path / "data"), prefixes):
        with file_errors(folder):
            files = sorted(folder.glob(f"{prefix}*.parquet"))
        if files:
            return files
    return []


def open_parquet(files: Sequence[Path]) -> tuple[ParquetDataset, tuple[str, ...] | None]:
    """Open the images of Parquet files.

    Returns:
        The images, and the names of the classes if the first file has them.

    Raises:
        InputError: A file is broken, or its columns are not those of images and labels.
    """
    handles = [_open(file) for file in files]
    starts = np.cumsum([0, *(handle.metadata.num_rows for handle in handles)])[:-1]
    labels = np.concatenate([_read_labels(handle, file) for handle, file in zip(handles, files, strict=True)])
    with _parquet_errors(files[0].parent, "read: the images"):
        column = _image_column(handles, files)
    images = ParquetDataset(tuple(file.name for file in files), tuple(map(int, starts)), column, labels)
    return images, _class_names(handles[0].schema_arrow)


@contextmanager
def _parquet_errors(file: Path, action: str) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into an InputError that names it."""
    try:
        yield
    except DECODER_ERRORS as error:  # errors of pyarrow are also errors of these types
        raise cannot(action, file, error) from error


def _open(file: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    require_regular(file)
    with _parquet_errors(file, "read as Parquet"):
        handle = ParquetFile(file, memory_map=True)
        _require_columns(handle.schema_arrow, file)
    return handle


def _require_columns(schema: Any, file: Path) -> None:
    from pyarrow import types

    missing = [name for name in ("image", "label") if schema.names.count(name) != 1]
    if missing:
        message = f"{file} must have the columns image and label"
        raise InputError(message, got=f"no {' and no '.join(missing)}, or several", known=schema.names)
    if not types.is_integer(schema.field("label").type):
        raise InputError(f"labels in {file} must be whole numbers", got=schema.field("label").type)
    image = schema.field("image").type
    if types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if not (types.is_binary(image) or types.is_large_binary(image)):
        raise InputError(f"images in {file} must be bytes, or a struct with a field of bytes", got=image)


def _read_labels(handle: Any, file: Path) -> Labels:
    column = _read_column(handle, "label", file)["label"]
    if column.null_count:
        raise InputError(f"every row of {file} must have a label", got=f"{column.null_count} without")
    labels = require_labels(column.to_numpy(), source=str(file))
    if len(labels) != handle.metadata.num_rows:
        raise InputError(f"{file} must have as many labels as rows", got=f"{len(labels)} in {handle.metadata.num_rows}")
    return labels


def _read_column(handle: Any, name: str, file: Path, *, group: int | None = None) -> Any:
    with _parquet_errors(file, f"read: its column {name}"):
        return handle.read([name]) if group is None else handle.read_row_group(group, [name])


def _image_column(handles: Sequence[Any], files: Sequence[Path]) -> Any:
    import pyarrow

    groups = (
        _bytes_of(_read_column(handle, "image", file, group=group)["image"])
        for handle, file in zip(handles, files, strict=True)
        for group in range(handle.num_row_groups)
    )
    metadata = [handle.metadata for handle in handles]
    size = sum(part.row_group(group).total_byte_size for part in metadata for group in range(part.num_row_groups))
    if size > min(MEMORY_BYTES, (available_bytes() or 2 * MEMORY_BYTES) // 2):
        _require_disk(size, source=files[0].parent)
        return _map_to_file(groups)
    return pyarrow.chunked_array(
        itertools.chain.from_iterable(group.chunks for group in groups), pyarrow.large_binary()
    )


def _require_disk(size: int, *, source: Path) -> None:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size > free:
        message = f"the images in {source} must fit into {folder} when they are unpacked"
        got = f"{size / 1e9:,.1f} GB, of which {free / 1e9:,.1f} GB are free"
        raise InputError(message, got=got, hint="TMPDIR=FOLDER on a larger disk")


def _bytes_of(column: Any) -> Any:
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_struct(column.type):
        column = compute.struct_field(column, "bytes")
    return column.cast(pyarrow.large_binary())


def _map_to_file(groups: Any) -> Any:
    """Copy columns to a temporary file and map it; the file is unlinked at once and disappears with the mapping."""
    import pyarrow

    schema = pyarrow.schema([("image", pyarrow.large_binary())])
    with (
        file_errors(tempfile.gettempdir(), "written"),
        tempfile.NamedTemporaryFile(prefix="hwnas-", suffix=".arrow") as file,
    ):
        with pyarrow.OSFile(file.name, "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
            for group in groups:
                writer.write_table(pyarrow.table({"image": group}, schema=schema))
        return pyarrow.ipc.open_file(pyarrow.memory_map(file.name)).read_all()["image"]


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face stores in the schema."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        names = json.loads(text)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):  # other writers store other values there, and the names are optional
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
