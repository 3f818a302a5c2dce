"""Timing caches: files of kernel timings that let several builds choose the same kernels.

TensorRT chooses kernels by timing them, so two builds of one network may differ. With a shared timing cache, builds
use the recorded times in place of new ones. By default, hwnas keeps one for each GPU model and version of TensorRT.
"""

import functools
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hwnas.data_paths import cache_folder
from hwnas.errors import InputError, unknown
from hwnas.export.tensorrt.library import GpuFacts, TensorRtMessage, failure
from hwnas.files import brief_lock, file_errors, read_bytes, write_atomic

TimingCacheUse = Literal["extend", "read", "pinned"]
TIMING_CACHE_USES: tuple[str, ...] = get_args(TimingCacheUse)

_PATH_VARIABLE, _USE_VARIABLE = "HWNAS_TIMING_CACHE", "HWNAS_TIMING_CACHE_USE"
_NO_CACHE = "none"
_FOLDER = "tensorrt"
_LOCK_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TimingCache:
    """A timing cache file and how a build may use it."""

    path: Path
    use: TimingCacheUse = "extend"
    """'extend' reads the file and adds new timings to it; 'read' times what is missing and leaves the file as it is;
    'pinned' times nothing, and a missing kernel fails the build."""
    sha256: str | None = None
    """The hash that the file must have; not with 'extend'."""
    can_be_replaced: bool = False
    """True for the cache that hwnas keeps by default: if it does not fit or is damaged, it begins anew, and builds go
    on without it if it cannot be read or written."""

    def __post_init__(self) -> None:
        if self.use not in TIMING_CACHE_USES:
            raise unknown("use of a timing cache", self.use, TIMING_CACHE_USES)
        if self.use == "extend" and self.sha256 is not None:
            hint = "use 'read' or 'pinned' with a hash"
            raise InputError("a timing cache that is extended cannot keep its hash", got=self.sha256, hint=hint)


@dataclass(frozen=True, kw_only=True)
class TimingCacheHashes:
    """SHA-256 of the timing cache file before and after a build; None if there was no file."""

    before: str | None
    after: str | None


def choose_timing_cache(*, version: str, gpu: GpuFacts, environ: Mapping[str, str] = os.environ) -> TimingCache | None:
    """Return the cache that builds of TensorRT share if no other one was chosen.

    Args:
        version: Version of TensorRT.
        gpu: The GPU that it builds for.
        environ: HWNAS_TIMING_CACHE names another file, or is 'none' for no cache; HWNAS_TIMING_CACHE_USE is its use.

    Returns:
        The cache of the environment, else the one that hwnas keeps for this GPU model and this version.
    """
    path = environ.get(_PATH_VARIABLE)
    if path == _NO_CACHE:
        return None
    if path:
        return TimingCache(path=Path(path), use=cast("TimingCacheUse", environ.get(_USE_VARIABLE, "extend")))
    # Timings hold for the library, the GPU and the CUDA that it was built for; a driver may change them a little.
    words = re.sub(r"[^a-z0-9.]+", "-", f"{gpu.reported} {version} cuda{gpu.cuda}".casefold()).strip("-")
    return TimingCache(path=cache_folder() / _FOLDER / f"{words}.timings", can_be_replaced=True)


def read_timing_cache(cache: TimingCache) -> bytes | None:
    """Read the file of a cache.

    Returns:
        The content, or None if the file does not exist yet and the use is 'extend'.

    Raises:
        InputError: The file is missing, empty, unreadable, or has another hash than `cache.sha256`.
    """
    try:
        return _read(cache)
    except InputError as error:
        if not cache.can_be_replaced:
            raise
        _warn_once(cache.path, error.message)
        return None


def _read(cache: TimingCache) -> bytes | None:
    with file_errors(cache.path):
        exists = cache.path.exists()
    if not exists and cache.use == "extend":
        return None
    if not exists:
        raise InputError(f"there is no timing cache {cache.path}", hint="create it with use='extend'")
    data = read_bytes(cache.path)
    if not data and cache.can_be_replaced:
        return None
    if not data:
        raise InputError(f"the timing cache {cache.path} is empty", hint="remove the file")
    if cache.sha256 is not None and sha256(data) != cache.sha256:
        message = f"the timing cache {cache.path} must have the hash {cache.sha256}"
        raise InputError(message, got=sha256(data), hint="the file that was pinned")
    return data


def attach_timing_cache(
    library: Any, config: Any, cache: TimingCache, *, data: bytes | None, messages: list[TensorRtMessage]
) -> None:
    """Give the cache to a builder configuration; a cache of another GPU or TensorRT version is refused."""
    loaded = config.create_timing_cache(data or b"")
    fits = loaded and config.set_timing_cache(loaded, ignore_mismatch=False)
    if not fits and data and cache.can_be_replaced:
        _log.warning("the timing cache %s does not fit and begins anew", cache.path)
        messages.clear()
        fits = config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    if not fits:
        raise failure(f"the timing cache {cache.path} must be of this GPU and this version of TensorRT", messages)
    if cache.use == "pinned":
        config.set_flag(library.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)


def save_timing_cache(config: Any, cache: TimingCache, *, data: bytes | None) -> TimingCacheHashes:
    """Write the timings of a finished build back to the file if the use is 'extend', and hash the file."""
    before = None if data is None else sha256(data)
    if cache.use != "extend":
        return TimingCacheHashes(before=before, after=before)
    after = before
    try:
        with file_errors(cache.path):
            cache.path.parent.mkdir(parents=True, exist_ok=True)
            # Other processes build with the same file, and what they added since it was read is kept. Without the lock,
            # what is lost is only timed again.
            with brief_lock(cache.path.parent, timeout_s=_LOCK_TIMEOUT_S):
                after = _extend(config, cache, data=data)
    except InputError as error:
        if not cache.can_be_replaced:
            raise
        _warn_once(cache.path, error.message)
    return TimingCacheHashes(before=before, after=after)


def _extend(config: Any, cache: TimingCache, *, data: bytes | None) -> str:
    """Write the timings of a build and those in the file to the file; returns its hash."""
    timings = config.get_timing_cache()
    current = read_timing_cache(cache)
    if current is not None and current != data:
        theirs = config.create_timing_cache(current)
        if not theirs or not timings.combine(theirs, ignore_mismatch=False):
            _log.warning("the timing cache %s was replaced by one that does not fit", cache.path)
    extended = bytes(timings.serialize())
    if extended != current:
        write_atomic(cache.path, extended)
    return sha256(extended)


@functools.cache
def _warn_once(path: Path, message: str) -> None:
    _log.warning("builds go on without the timing cache %s: %s", path, message)


def sha256(data: bytes) -> str:
    """Return the SHA-256 hash in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
