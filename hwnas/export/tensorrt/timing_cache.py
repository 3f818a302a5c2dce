"""The timing cache of a build: read, handed to TensorRT, hashed before and after, kept."""

import hashlib
from dataclasses import dataclass
from typing import Any

from hwnas.errors import InputError
from hwnas.export.tensorrt.messages import Message, failure
from hwnas.export.tensorrt.settings import TimingCache
from hwnas.runs import write_atomic


@dataclass(frozen=True, kw_only=True)
class TimingCacheHashes:
    """SHA-256 of a timing cache's file; None where there was no file."""

    before: str | None
    after: str | None


def read_cache(cache: TimingCache) -> bytes | None:
    """The file of a cache, None where one that may grow does not exist yet."""
    try:
        data = cache.path.read_bytes()
    except FileNotFoundError as error:
        if cache.use == "extend":
            return None
        raise InputError(f"there is no timing cache {cache.path}", hint="make it with use='extend'") from error
    except OSError as error:
        raise InputError(f"the timing cache {cache.path} cannot be read", got=error.strerror) from error
    if not data:
        raise InputError(f"the timing cache {cache.path} is empty", hint="remove the file")
    if cache.sha256 is not None and sha256(data) != cache.sha256:
        message = f"the timing cache {cache.path} must have the hash {cache.sha256}"
        raise InputError(message, got=sha256(data), hint="the file that was pinned")
    return data


def use_cache(library: Any, config: Any, cache: TimingCache, *, data: bytes | None, messages: list[Message]) -> None:
    """Hand the cache to a builder's config; one of another GPU or version is refused."""
    found = config.create_timing_cache(data or b"")
    if not found or not config.set_timing_cache(found, ignore_mismatch=False):
        raise failure(f"the timing cache {cache.path} must be of this GPU and this version of TensorRT", messages)
    if cache.use == "pinned":
        config.set_flag(library.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)


def keep_cache(config: Any, cache: TimingCache, *, data: bytes | None) -> TimingCacheHashes:
    """Write what the build has timed, if the cache may grow; the hashes of its file."""
    before = None if data is None else sha256(data)
    if cache.use != "extend":
        return TimingCacheHashes(before=before, after=before)
    grown = bytes(config.get_timing_cache().serialize())
    if grown != data:
        write_atomic(cache.path, grown)
    return TimingCacheHashes(before=before, after=sha256(grown))


def sha256(data: bytes) -> str:
    """The hash of a file's content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
