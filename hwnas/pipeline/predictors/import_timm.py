"""`hwnas profiles import-timm`: import benchmark tables of timm with their source."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hwnas.arguments import checked_arguments
from hwnas.config import require_valid
from hwnas.data_paths import PROFILES
from hwnas.devices import DEVICES, Device, resolve
from hwnas.errors import InputError, UnknownNameError, unknown
from hwnas.files import file_errors, read_text
from hwnas.metrics import ANY_BATCH, PRECISIONS, RUNTIMES, UNSPECIFIED, Deployment
from hwnas.pipeline.predictors.measured_networks import match_models, model_key
from hwnas.pipeline.predictors.workloads import WORKLOADS, known_workloads, trace_timm
from hwnas.progress import NullReporter, Reporter
from hwnas.records.table import (
    TableManifest,
    TableRow,
    is_table,
    parse_rows,
    read_table_manifest,
    rows_digest,
    table_folder,
    write_table,
)
from hwnas.records.workloads import ModelKey, TracedModels, save_workloads
from hwnas.runs import package_versions
from hwnas.workload import Workload

_NAME = re.compile(
    r"benchmark-infer-(?P<amp>amp[-_]?)?(?P<precision>fp32|float32|fp16|float16|bf16|bfloat16|tf32)?"
    r"(-(?P<layout>nchw|nhwc))?(-pt(?P<torch>\d{3,4}))?(-cu(?P<cuda>\d{3}))?-(?P<device>.+?)(?P<compiled>-dynamo)?"
)
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Values that file names do not contain; None is read from the names."""

    deployment: Deployment = UNSPECIFIED
    """Device, runtime and precision."""
    match: str = ""
    """Regular expression that names of models must match from their beginning; empty: all."""
    out: Path = Path(PROFILES)

    def __post_init__(self) -> None:
        require_valid(self)
        precision, runtime = self.deployment.precision, self.deployment.runtime
        if precision is not None and precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS, hint="--precision {}")
        if runtime is not None and runtime not in RUNTIMES:
            raise unknown("runtime", runtime, RUNTIMES, hint="--runtime {}")


@dataclass(frozen=True, kw_only=True)
class ImportedTable:
    """A table that was written."""

    path: Path
    manifest: TableManifest
    num_rows: int
    num_used: int
    """Rows whose model is wanted and could be traced."""
    not_traced: tuple[str, ...]
    """Models that the installed timm lacks, or that cannot be traced."""


@checked_arguments
def import_timm(
    files: Sequence[Path], options: ImportOptions | None = None, *, reporter: Reporter | None = None
) -> tuple[ImportedTable, ...]:
    """Import tables of timm's inference benchmark, and trace their models on the `meta` device.

    Args:
        files: The CSV files; their names give the device, precision, runtime and versions.
        options: Values that replace those of the names, and the folder to write to.
        reporter: Receives progress messages.

    Raises:
        InputError: A file is not valid, its name lacks the device or precision, or another table is in its place.
    """
    options, reporter = options or ImportOptions(), reporter or NullReporter()
    if not files:
        raise InputError("there must be a file to import", got="none", hint="benchmark-infer-*.csv of timm")
    created_utc = datetime.now(UTC).isoformat(timespec="seconds")
    tables = [_table(path, options, created_utc) for path in files]
    folders = _free_folders([manifest for manifest, _, _ in tables], options.out)
    wanted = {model_key(row): None for _, _, rows in tables for row in rows}
    traced = _traced(list(wanted), options.out, reporter)
    return tuple(
        _written(folder, manifest, text, rows, traced)
        for folder, (manifest, text, rows) in zip(folders, tables, strict=True)
    )


def _table(path: Path, options: ImportOptions, created_utc: str) -> tuple[TableManifest, str, list[TableRow]]:
    text = read_text(path)
    rows = match_models(parse_rows(text, source=str(path)), options.match)
    if not rows:
        raise InputError(f"{path} must have a model that --match matches", got=options.match)
    return replace(_manifest(path, options, created_utc), sha256=rows_digest(text)), text, rows


def _free_folders(manifests: Sequence[TableManifest], out: Path) -> list[Path]:
    """Return the folder of each table; raise InputError if another file's table is in it.

    A table whose place holds one of another version of torch has its own version in the name of its folder.
    """
    taken: dict[Path, TableManifest] = {}
    folders = []
    for manifest in manifests:
        plain = table_folder(out, manifest)
        version = manifest.environment.get("torch", "").replace(".", "")
        places = [plain, *([plain.with_name(f"{plain.name}-pt{version}")] if version else [])]
        for folder in places:
            if folder not in taken:
                taken[folder] = read_table_manifest(folder) if is_table(folder) else manifest
            held = taken[folder]
            if held.source == manifest.source or held.environment.get("torch") == manifest.environment.get("torch"):
                break
        if held.source != manifest.source:
            hint = "choose another folder with --out, or remove the existing one"
            raise InputError(
                f"{folder} holds the table of another file", got=manifest.source, known=[held.source], hint=hint
            )
        folders.append(folder)
    return folders


def _manifest(path: Path, options: ImportOptions, created_utc: str) -> TableManifest:
    name = _NAME.fullmatch(path.stem)
    parts = name.groupdict() if name else {}
    stated = parts.get("precision") or ("fp16" if parts.get("amp") else None)
    precision = _PRECISIONS.get(str(stated), stated)
    in_name = Deployment(
        device=parts.get("device"),
        runtime="torch-compile" if parts.get("compiled") else "torch",
        precision=precision,
    )
    deployment = options.deployment.completed(in_name)
    if deployment.device is None or deployment.precision is None:
        message = f"the name of {path.name} must state what was measured"
        known = ["benchmark-infer-PRECISION-LAYOUT-ptNNN-cuNNN-DEVICE.csv"]
        raise InputError(message, got=path.name, known=known, hint="--device rtx4090 --precision fp16 --runtime torch")
    return TableManifest(
        created_utc=created_utc,
        deployment=replace(deployment, device=_device(deployment.device, path), batch=ANY_BATCH, threads=None),
        source=f"timm results/{path.name}",
        command=_command(path, options),
        match=options.match,
        sha256="",
        environment=_environment(parts, precision),
    )


def _device(name: str, path: Path) -> str:
    plain = _letters(name.removeprefix("cpu-"))
    by_spelling = {_letters(known): device.name for device in DEVICES.values() for known in _spellings(device)}
    known = by_spelling.get(plain) or by_spelling.get(f"rtx{plain}")
    try:
        return known or resolve(name)
    except UnknownNameError as error:
        hint = "--device rtx4090, or of a CPU MODEL-CORESc-INSTRUCTIONS, such as intel-core-i9-10940x-14c-avx512"
        raise InputError(f"{path.name}: {error.message}", got=error.got, known=error.known, hint=hint) from error


def _spellings(device: Device) -> tuple[str, ...]:
    return (device.name, *device.aliases)


def _letters(name: str) -> str:
    """Return the letters and digits of a name: `pro6000maxq`, `RTX-4090` and `i9_10940x` are spelt in many ways."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _environment(parts: dict[str, str | None], precision: str | None) -> dict[str, str]:
    """Return the software versions in the name of a file."""
    torch, cuda, layout = parts.get("torch"), parts.get("cuda"), parts.get("layout")
    facts = {
        "torch": f"{torch[0]}.{torch[1:-1]}.{torch[-1]}" if torch else None,
        "cuda": f"{cuda[:2]}.{cuda[2]}" if cuda else None,
        "memory_format": {"nchw": "contiguous", "nhwc": "channels_last"}.get(str(layout)),
        "autocast": precision if parts.get("amp") else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _command(path: Path, options: ImportOptions) -> tuple[str, ...]:
    words = ["hwnas", "profiles", "import-timm", path.name]
    given = options.deployment
    named = {"device": given.device, "precision": given.precision, "runtime": given.runtime, "match": options.match}
    for name, value in named.items():
        words += [f"--{name}", value] if value else []
    return tuple(words)


def _traced(keys: Sequence[ModelKey], folder: Path, reporter: Reporter) -> TracedModels:
    """Return the traces of all models, from the stored file or made now and stored."""
    known = _known(folder, reporter)
    version = package_versions(["timm"]).get("timm", "")
    models: dict[ModelKey, Workload | None] = dict(known.models) if known.timm == version else {}
    own_sizes = dict(known.own_sizes) if known.timm == version else {}
    missing = [key for key in keys if key not in models]
    for number, key in enumerate(missing, start=1):
        try:
            models[key] = trace_timm(key[0], image_size=key[1])
        except InputError:  # reported as not traced
            models[key] = None
        own_sizes |= _own_size(key, models[key])
        if number % _EVERY == 0 or number == len(missing):
            reporter.message(f"{number} of {len(missing)} models traced")
    traced = TracedModels(timm=version, models=models, own_sizes=own_sizes)
    if missing:
        with file_errors(folder, "written"):
            folder.mkdir(parents=True, exist_ok=True)
        save_workloads(traced, folder / WORKLOADS)
    return traced


def _known(folder: Path, reporter: Reporter) -> TracedModels:
    """Return the stored traces; none if their file cannot be read, which is then replaced."""
    try:
        return known_workloads(folder)
    except InputError as error:
        reporter.message(f"{error.message}: all models are traced again")
        return TracedModels(timm="", models={})


def _own_size(key: ModelKey, found: Workload | None) -> dict[str, int]:
    """Return the default image size of a traced model, if it was traced at that size."""
    from hwnas.export.timm_models import default_image_size  # torch and timm take seconds to import

    name, size = key
    return {name: size} if found is not None and default_image_size(name) == size else {}


def _written(
    path: Path, manifest: TableManifest, text: str, rows: Sequence[TableRow], traced: TracedModels
) -> ImportedTable:
    write_table(path, manifest, text)
    missing = tuple(row.model for row in rows if traced.models[model_key(row)] is None)
    return ImportedTable(
        path=path,
        manifest=manifest,
        num_rows=len(parse_rows(text, source=str(path))),
        num_used=len(rows) - len(missing),
        not_traced=missing,
    )
