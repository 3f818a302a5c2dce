"""Templates of segments: what past exports teach about the graphs of each structure, in memory and on disk.

A `SegmentTemplate` belongs to one structure (`hwnas.export.structure`): the graph templates of the instances that were
exported, with the sizes and numbers of each. From these, rules infer the numbers of an instance of other sizes. If the
exporter gave graphs of several forms for one structure, some size decides between them and nothing is inferred.

On disk there is one file per structure, in the folder `templates` of the cache. Its name is a digest of the structure,
of the code that exports, and of the versions of torch and onnx, so a change of any of them begins a new template. The
cache can be deleted at any time, and a damaged file is replaced.
"""

import base64
import functools
import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hwnas.config import from_mapping, parse_json
from hwnas.data_paths import CACHE_VARIABLE, cache_folder
from hwnas.errors import InputError
from hwnas.export.graph_template import GraphInstance, GraphTemplate, UnsupportedGraphError, factor_graph
from hwnas.export.size_rules import Number, SizeRules
from hwnas.files import brief_lock, file_errors, read_text, write_atomic
from hwnas.runs import hwnas_version, package_versions

_log = logging.getLogger(__name__)

SCHEMA = "hwnas.templates/1"
_FOLDER = "templates"
_LOCK = ".templates.lock"
MAX_INSTANCES = 48
"""Instances kept of each variant; more would not help, as rules that still differ then have no form that we know."""
MAX_FILLED = 512
"""Filled graphs kept in memory for each structure."""
LOCK_TIMEOUT_S = 10.0
"""Seconds to wait for the lock. Saving takes milliseconds; after a longer wait the cache is not written."""
EXPORTING = ("compose", "dynamo", "graph_template", "precision", "size_rules", "structure", "templates")
"""Modules of hwnas.export that determine the content of templates or how they are filled."""


def require_writable(folder: Path) -> None:
    """Raise an InputError that names the alternative if templates cannot be written under a cache folder."""
    path = folder / _FOLDER
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


@dataclass(kw_only=True)
class _GraphVariant:
    """A graph template of a structure and the instances that have it."""

    model: bytes
    """The exported graph of the first instance, from which the template can be made again."""
    template: GraphTemplate
    sizes: list[dict[str, Number]]
    numbers: list[list[Number]]

    def __post_init__(self) -> None:
        self._rules: SizeRules | None = None

    def add(self, sizes: Mapping[str, Number], numbers: Sequence[Number]) -> None:
        if len(self.sizes) < MAX_INSTANCES and dict(sizes) not in self.sizes:
            self.sizes.append(dict(sizes))
            self.numbers.append(list(numbers))
            self._rules = None

    def infer(self, sizes: Mapping[str, Number]) -> list[Number] | None:
        if self._rules is None:
            tolerances = self.template.tolerances(self.numbers[0])
            self._rules = SizeRules(self.sizes, self.numbers, tolerances=tolerances)
        return self._rules.infer(sizes)


@dataclass
class SegmentTemplate:
    """The exported instances of one structure, and what they determine."""

    variants: list[_GraphVariant] = field(default_factory=list)
    is_verified: bool = False
    """True if an inferred graph was compared with torch."""
    is_refuted: bool = False
    """True if an inferred graph was wrong: nothing is inferred from then on."""
    _filled: dict[tuple[Number, ...], GraphInstance] = field(default_factory=dict)

    @property
    def num_instances(self) -> int:
        """The number of exported instances."""
        return sum(len(variant.sizes) for variant in self.variants)

    def find(self, sizes: Mapping[str, Number]) -> GraphInstance | None:
        """Return the graph for sizes that were exported, or inferred and remembered; None for others."""
        key = tuple(sizes.values())
        if key not in self._filled:
            for variant in self.variants:
                for known, numbers in zip(variant.sizes, variant.numbers, strict=True):
                    if known == sizes:
                        self.remember(sizes, variant.template.fill(numbers))
        return self._filled.get(key)

    def infer(self, sizes: Mapping[str, Number]) -> GraphInstance | None:
        """Return the graph for other sizes; None if the rules do not determine it or there are several variants."""
        if self.is_refuted or len(self.variants) != 1:
            return None
        (variant,) = self.variants
        numbers = variant.infer(sizes)
        return None if numbers is None else variant.template.fill(numbers)

    def remember(self, sizes: Mapping[str, Number], instance: GraphInstance) -> None:
        """Keep a graph in memory, so that the next segment of these sizes need not be inferred again."""
        if len(self._filled) >= MAX_FILLED:
            self._filled.clear()
        self._filled[tuple(sizes.values())] = instance

    def learn(self, sizes: Mapping[str, Number], model: onnx.ModelProto) -> GraphInstance:
        """Add an exported instance.

        Args:
            sizes: The sizes of its structure.
            model: Its graph, with weights as inputs.

        Raises:
            UnsupportedGraphError: The graph has parts that a template cannot hold.
        """
        template, numbers = factor_graph(model)
        self._variant(template, model.SerializeToString()).add(sizes, numbers)
        return template.fill(numbers)

    def merge(self, other: "SegmentTemplate") -> None:
        """Add what another process learned about the same structure; a refutation holds for both."""
        for theirs in other.variants:
            mine = self._variant(theirs.template, theirs.model)
            for sizes, numbers in zip(theirs.sizes, theirs.numbers, strict=True):
                mine.add(sizes, numbers)
        self.is_refuted = self.is_refuted or other.is_refuted
        self.is_verified = (self.is_verified or other.is_verified) and not self.is_refuted

    def _variant(self, template: GraphTemplate, model: bytes) -> _GraphVariant:
        """Return the variant with this graph template, which is added if it is new."""
        key = template.key()
        for variant in self.variants:
            if variant.template.key() == key:
                return variant
        self.variants.append(_GraphVariant(model=model, template=template, sizes=[], numbers=[]))
        return self.variants[-1]


class TemplateStore:
    """Templates by structure, in memory and in a cache folder."""

    def __init__(self, folder: Path | None) -> None:
        """Open a store.

        Args:
            folder: The cache folder; None keeps templates in memory alone.
        """
        self._folder = folder
        self._templates: dict[str, SegmentTemplate] = {}

    def get(self, text: str) -> SegmentTemplate:
        """Return the template of a structure, which is empty at first."""
        if text not in self._templates:
            self._templates[text] = self._load(text) or SegmentTemplate()
        return self._templates[text]

    def save(self, text: str) -> None:
        """Write the template of a structure to disk, merged with what other processes wrote in the meantime."""
        if self._folder is None:
            return
        template, path = self._templates[text], self._path(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with brief_lock(self._folder / _LOCK, timeout_s=LOCK_TIMEOUT_S) as is_locked:
                if not is_locked:
                    _log.warning("the template %s is not saved: another process holds %s", path, _LOCK)
                    return
                if (stored := self._load(text)) is not None:
                    template.merge(stored)
                if path.exists() and not path.is_file():
                    path.unlink()  # a pipe or the like in a folder of ours
                write_atomic(path, _serialise(text, template))
        except OSError as error:
            raise _cannot_write(path.parent, error) from error

    def _load(self, text: str) -> SegmentTemplate | None:
        if self._folder is None:
            return None
        path = self._path(text)
        try:
            if not path.exists():
                return None
            return _parse(read_text(path), source=str(path))
        except OSError as error:
            raise _cannot_write(path.parent, error) from error
        except InputError as error:
            # The file only caches what the exporter returns, which can be asked again.
            _log.warning("the template %s cannot be read and is made again: %s", path, error.got or error.message)
            return None

    def _path(self, text: str) -> Path:
        assert self._folder is not None
        return self._folder / _FOLDER / f"{_digest(_versions() + text)[:32]}.json"


def default_store() -> TemplateStore:
    """Return the store in the cache folder, the same one for the whole process."""
    return _open_store(cache_folder())


@functools.cache
def _open_store(folder: Path) -> TemplateStore:
    return TemplateStore(folder)


def _serialise(structure: str, template: SegmentTemplate) -> str:
    body = {
        "structure": structure,
        "is_verified": template.is_verified,
        "is_refuted": template.is_refuted,
        "variants": [
            {
                "model": base64.b64encode(variant.model).decode(),
                "sizes": variant.sizes,
                "numbers": variant.numbers,
            }
            for variant in template.variants
        ],
    }
    content = json.dumps(body)
    return json.dumps({"schema": SCHEMA, "sha256": _digest(content), "content": content})


@dataclass(frozen=True, kw_only=True)
class _TemplateFile:
    schema: str
    sha256: str
    content: str


@dataclass(frozen=True, kw_only=True)
class _StoredVariant:
    model: str
    sizes: Any
    numbers: Any


@dataclass(frozen=True, kw_only=True)
class _StoredTemplate:
    structure: str
    is_verified: bool
    is_refuted: bool
    variants: tuple[_StoredVariant, ...]


def _parse(text: str, *, source: str) -> SegmentTemplate:
    file = from_mapping(_TemplateFile, parse_json(text, source=source))
    if file.schema != SCHEMA or _digest(file.content) != file.sha256:
        raise InputError(f"{source} must be as it was written", got="a file that was changed or cut off")
    body = from_mapping(_StoredTemplate, parse_json(file.content, source=source))
    return SegmentTemplate(
        variants=[_parse_variant(variant, source=source) for variant in body.variants],
        is_verified=body.is_verified,
        is_refuted=body.is_refuted,
    )


def _parse_variant(stored: _StoredVariant, *, source: str) -> _GraphVariant:
    with file_errors(source, also=(DecodeError, UnsupportedGraphError, ValueError, KeyError, IndexError, TypeError)):
        model = base64.b64decode(stored.model)
        template, expected = factor_graph(onnx.load_from_string(model))
    are_sizes = isinstance(stored.sizes, list) and all(
        isinstance(row, dict) and all(map(_is_number, row.values())) for row in stored.sizes
    )
    are_numbers = isinstance(stored.numbers, list) and all(
        isinstance(row, list) and len(row) == len(expected) and all(map(_is_number, row)) for row in stored.numbers
    )
    if not (are_sizes and are_numbers and len(stored.sizes) == len(stored.numbers) > 0):
        raise InputError(f"{source}: each instance must have sizes, and the {len(expected)} numbers of the graph")
    return _GraphVariant(model=model, template=template, sizes=stored.sizes, numbers=stored.numbers)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -(2**63) <= value < 2**63  # type: ignore[operator]


@functools.cache
def _versions() -> str:
    versions = package_versions(("torch", "onnx", "onnxscript"))
    return json.dumps([SCHEMA, hwnas_version(), _code_digest(Path(__file__).parent), versions])


def _code_digest(folder: Path) -> str:
    return _digest("\0".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in EXPORTING))


def _cannot_write(folder: Path, error: OSError) -> InputError:
    message = f"the cache of exported blocks must be writable, and {folder} cannot be written"
    return InputError(message, got=error.strerror or str(error), hint=f"{CACHE_VARIABLE}=DIR for another folder")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
