"""Templates of graphs: what was learned of each structure, in memory and on disk.

One file per structure, under the folder that `HWNAS_CACHE` names, or the user's cache. Its name digests the structure
with the code behind it, the code that exports, and the versions of both; a file that is damaged is made anew.
"""

import base64
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from hwnas.errors import InputError
from hwnas.export.graph_template import Filled, Form, Number, take_apart
from hwnas.export.size_rules import Rules
from hwnas.runs import hwnas_version, package_versions, write_atomic

VARIABLE = "HWNAS_CACHE"
SCHEMA = "hwnas.templates/1"
_FOLDER = "templates"
_LOCK = ".templates.lock"
MAX_INSTANCES = 48
"""Instances kept of one form; a structure that is not understood by then never will be."""
MAX_FILLED = 512
"""Filled graphs kept of one structure."""
EXPORTING = ("compose", "dynamo", "graph_template", "precision", "segment", "size_rules", "structure", "templates")
"""The modules of hwnas.export that decide what stands in a template, and what is made of it."""


def cache_folder() -> Path:
    """Where what can be made anew is kept between runs."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hwnas"


def require_writable(folder: Path) -> None:
    """Templates can be kept under a folder; else an error that says where to name another."""
    place = folder / _FOLDER
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _cannot_write(place, error) from error


@dataclass(kw_only=True)
class _Variant:
    """Instances whose graphs have one form."""

    model: bytes
    """The graph of the first of them."""
    form: Form
    sizes: list[dict[str, Number]]
    numbers: list[list[Number]]

    def __post_init__(self) -> None:
        self._rules: Rules | None = None

    def add(self, sizes: Mapping[str, Number], numbers: Sequence[Number]) -> None:
        if len(self.sizes) < MAX_INSTANCES and dict(sizes) not in self.sizes:
            self.sizes.append(dict(sizes))
            self.numbers.append(list(numbers))
            self._rules = None

    def exact(self, sizes: Mapping[str, Number]) -> list[Number] | None:
        """The numbers of an instance that was seen."""
        return next((found for known, found in zip(self.sizes, self.numbers, strict=True) if known == sizes), None)

    def inferred(self, sizes: Mapping[str, Number]) -> list[Number] | None:
        """The numbers of one that was not, where the others leave no choice."""
        if self._rules is None:
            tolerances = self.form.tolerances(self.numbers[0])
            self._rules = Rules(self.sizes, self.numbers, tolerances=tolerances)
        return self._rules.answer(sizes)

    def merge(self, other: "_Variant") -> None:
        """Take what another process learned of the same form."""
        for sizes, numbers in zip(other.sizes, other.numbers, strict=True):
            self.add(sizes, numbers)

    def to_json(self) -> dict[str, Any]:
        model = base64.b64encode(self.model).decode()
        return {"model": model, "sizes": self.sizes, "numbers": self.numbers}


@dataclass
class Template:
    """What is known of one structure."""

    variants: list[_Variant] = field(default_factory=list)
    is_verified: bool = False
    """Whether an inferred instance was compared with torch."""
    is_refuted: bool = False
    """Whether one was found wrong: from then on nothing is inferred."""
    _filled: dict[tuple[Number, ...], Filled] = field(default_factory=dict)

    def known(self, sizes: Mapping[str, Number]) -> Filled | None:
        """The graph for sizes that were exported, or inferred before."""
        key = tuple(sizes.values())
        if key not in self._filled:
            for variant in self.variants:
                if (numbers := variant.exact(sizes)) is not None:
                    self._keep(key, variant.form.fill(numbers))
        return self._filled.get(key)

    def infer(self, sizes: Mapping[str, Number]) -> Filled | None:
        """The graph for sizes that were not seen; with two forms nobody knows which would be the one."""
        if self.is_refuted or len(self.variants) != 1:
            return None
        (variant,) = self.variants
        numbers = variant.inferred(sizes)
        return None if numbers is None else variant.form.fill(numbers)

    def accept(self, sizes: Mapping[str, Number], filled: Filled) -> None:
        """Keep an inferred graph for as long as this process lasts."""
        self._keep(tuple(sizes.values()), filled)

    def _keep(self, key: tuple[Number, ...], filled: Filled) -> None:
        if len(self._filled) >= MAX_FILLED:
            self._filled.clear()
        self._filled[key] = filled

    def learn(self, sizes: Mapping[str, Number], model: onnx.ModelProto) -> Filled:
        """Keep the graph of an instance, and give it."""
        form, numbers = take_apart(model)
        key = form.key()
        variant = next((known for known in self.variants if known.form.key() == key), None)
        if variant is None:
            variant = _Variant(model=model.SerializeToString(), form=form, sizes=[], numbers=[])
            self.variants.append(variant)
        variant.add(sizes, numbers)
        return form.fill(numbers)

    def merge(self, other: "Template") -> None:
        """Take what another process learned of the same structure; what it found wrong is wrong here too."""
        for variant in other.variants:
            key = variant.form.key()
            mine = next((known for known in self.variants if known.form.key() == key), None)
            if mine is None:
                self.variants.append(variant)
            else:
                mine.merge(variant)
        self.is_refuted = self.is_refuted or other.is_refuted
        self.is_verified = (self.is_verified or other.is_verified) and not self.is_refuted

    @property
    def num_instances(self) -> int:
        """How many exported instances it was learned from."""
        return sum(len(variant.sizes) for variant in self.variants)


class TemplateStore:
    """Templates by structure; `folder` None keeps them in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._templates: dict[str, Template] = {}
        self.damaged: list[Path] = []
        """Files that could not be read, and were made anew."""

    def get(self, text: str) -> Template:
        """The template of a structure, an empty one at first."""
        if text not in self._templates:
            self._templates[text] = self._load(text) or Template()
        return self._templates[text]

    def save(self, text: str) -> None:
        """Keep what is known of a structure beyond this process, beside what others learned of it meanwhile."""
        if self._folder is None:
            return
        template, path = self._templates[text], self._path(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self._folder / _LOCK):
                if (there := self._load(text)) is not None:
                    template.merge(there)
                write_atomic(path, _text(text, template))
        except OSError as error:
            raise _cannot_write(path.parent, error) from error

    def _load(self, text: str) -> Template | None:
        if self._folder is None or not (path := self._path(text)).exists():
            return None
        try:
            return _parse(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            # Whatever stands there is only a copy of what the exporter says: it is asked again.
            self.damaged.append(path)
            del error
            return None

    def _path(self, text: str) -> Path:
        assert self._folder is not None
        return self._folder / _FOLDER / f"{_digest(_versions() + text)[:32]}.json"


def default_store() -> TemplateStore:
    """The store in the cache folder, one for all of this process."""
    return _store(cache_folder())


@functools.cache
def _store(folder: Path) -> TemplateStore:
    return TemplateStore(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only process that has this lock; others wait, and the system lets go of it where a process ends."""
    try:
        import fcntl
    except ImportError:  # a system without such locks: there the last writer wins, and others export once more
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _text(structure: str, template: Template) -> str:
    """What stands in the file of a template."""
    body = {
        "structure": structure,
        "is_verified": template.is_verified,
        "is_refuted": template.is_refuted,
        "variants": [variant.to_json() for variant in template.variants],
    }
    content = json.dumps(body)
    return json.dumps({"schema": SCHEMA, "sha256": _digest(content), "content": content})


def _parse(text: str) -> Template:
    file = json.loads(text)
    if file["schema"] != SCHEMA or _digest(file["content"]) != file["sha256"]:
        raise ValueError("the file is not what was written")
    body = json.loads(file["content"])
    return Template(
        variants=[_variant(entry) for entry in body["variants"]],
        is_verified=body["is_verified"],
        is_refuted=body["is_refuted"],
    )


def _variant(entry: Mapping[str, Any]) -> _Variant:
    model = base64.b64decode(entry["model"])
    form, _ = take_apart(onnx.load_from_string(model))
    return _Variant(model=model, form=form, sizes=entry["sizes"], numbers=entry["numbers"])


@functools.cache
def _versions() -> str:
    versions = package_versions(("torch", "onnx", "onnxscript"))
    return json.dumps([SCHEMA, hwnas_version(), _code_digest(Path(__file__).parent), versions])


def _code_digest(folder: Path) -> str:
    """A digest of the code that exports."""
    return _digest("\0".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in EXPORTING))


def _cannot_write(folder: Path, error: OSError) -> InputError:
    message = f"templates of graphs must have a folder to be kept in, and {folder} cannot be written"
    return InputError(message, got=error.strerror or str(error), hint=f"{VARIABLE}=DIR for another folder")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
