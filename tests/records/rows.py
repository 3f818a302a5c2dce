"""Rows and manifests that tests need: small, but complete."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hwnas.metrics import Deployment
from hwnas.records import (
    CampaignSession,
    DeviceState,
    Failure,
    Measurement,
    OutputParity,
    ProfileManifest,
    Samples,
    Setting,
    Subject,
)

REFERENCE = Subject(
    source="timm", name="deit_tiny_patch16_224", network_id="timm:deit_tiny", image_size=224, num_classes=1000
)


def make_setting(
    *,
    device: str = "toy-2c",
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    exporter: str = "composed",
) -> Setting:
    deployment = Deployment(device=device, runtime=runtime, precision=precision, batch=batch, threads=threads)
    return Setting(deployment=deployment, exporter=exporter)


def changed(setting: Setting, **deployment: Any) -> Setting:
    return replace(setting, deployment=replace(setting.deployment, **deployment))


SETTING = make_setting()
SESSION = CampaignSession(started_utc="2026-01-02T03:04:05+00:00", command=("hwnas", "profile", "--samples", "3"))
ENVIRONMENT = {"device": "toy-2c", "torch": "2.15.0", "python": "3.11.7"}


def manifest(
    environment: Mapping[str, str] | None = None, *, setting: Setting = SETTING, space: str | None = "autoformer-micro"
) -> ProfileManifest:
    return ProfileManifest(
        space=space,
        created_utc="2026-01-02T03:04:05+00:00",
        setting=setting,
        reference=REFERENCE,
        environment=dict(ENVIRONMENT) if environment is None else environment,
        device={"name": "toy-2c", "kind": "cpu"},
    )


MANIFEST = manifest()


def subject(number: int = 0) -> Subject:
    return Subject(
        source="space",
        name="autoformer-micro",
        network_id=f"net{number:013d}",
        arch={"embed_dim": 8 + number, "blocks": [{"num_heads": 1, "mlp_ratio": 2.5}, None]},
        arch_id=f"arch{number:012d}",
        image_size=32,
        num_classes=10,
    )


def row(
    number: int = 0,
    *,
    ns: int = 2_000_000,
    reference_ns: int = 1_000_000,
    process_id: str = "a",
    setting: Setting = SETTING,
    environment_id: str = MANIFEST.environment_id,
) -> Measurement:
    """A steady measurement: every run takes `ns`, but for a little that grows with its index."""
    return Measurement(
        subject=subject(number),
        setting=setting,
        environment_id=environment_id,
        process_id=process_id,
        seed=7,
        started_utc=f"2026-01-02T03:{number:02d}:00.000+00:00",
        duration_s=1.5,
        export_s=0.25,
        samples=samples(ns),
        reference=samples(reference_ns),
        memory_mb=12.5,
        parity=OutputParity(max_absolute=1e-6, max_relative=2e-6, top1_agreement=1.0),
        before=DeviceState(clock_mhz=1980.0, throttle=("gpu_idle",)),
    )


def failed(number: int = 0, reason: str = "nan", message: str = "12 of 1000 outputs are NaN") -> Measurement:
    failure = Failure(reason=reason, message=message)  # type: ignore[arg-type]
    return replace(row(number), samples=None, reference=None, parity=None, failure=failure)


def samples(ns: int, runs: int = 24) -> Samples:
    times = tuple(ns + index % 3 for index in range(runs))
    return Samples(wall_ns=tuple(2 * time for time in times), cpu_ns=times, switches=(0,) * runs)
