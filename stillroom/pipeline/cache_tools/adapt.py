"""`cache adapt`: an auto-encoder trained on cached features, and its codes as a new artifact."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.adapt_plan import plan_codes
from stillroom.pipeline.cache_tools.codes import ADAPT
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.adapt import (
    Measures,
    code_shape,
    covariance_of,
    measure,
    train_autoencoder,
)
from stillroom.stages.cache.autoencoder_file import from_bytes, to_bytes, weights_sha256
from stillroom.stages.cache.code_shard import CodeJob, cache_codes
from stillroom.stages.cache.feature_frames import FeatureFrames
from stillroom.stages.torch_state import best_device, threads
from stillroom.storage_specs.errors import (
    CacheIncomplete,
    ConfigError,
    StillroomError,
    WeightsError,
)
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.weights_file import keep_weights, read_weights, weights_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.pipeline.cache_tools.adapt_plan import CodePlan
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.autoencoder import AutoEncoder
    from stillroom.storage_specs.artifact_set import ArtifactSet

    OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SourceCodes:
    """The codes of one source: shards written now and before, bytes of features and of codes."""

    source: str
    frames: int
    bad: int
    shards: int
    already: int
    features_bytes: int
    code_bytes: int
    fingerprint: str


@dataclass(frozen=True)
class CodeReport:
    """The code of one teacher.

    set_name: of the extension sets that hold it
    weights: sha256 of the auto-encoder's; trained: whether it was trained now
    measures: None where its file is not in the cache
    """

    teacher: str
    features: str
    code: str
    set_name: str
    weights: str
    trained: bool
    measures: Measures | None
    sources: tuple[SourceCodes, ...]


def adapt_cache(
    run: RunConfig, on_progress: OnProgress = lambda stage, done, total: None
) -> list[CodeReport]:
    """Train the auto-encoders of the run's [adapt] sections, and write the codes of all sources.

    Running it again does what is missing: a trained auto-encoder is kept in the cache, and shards
    that are committed are left alone.

    on_progress: told (what is being done, steps done, steps in all)

    Raises:
        ConfigError: the run has no such section, or an auto-encoder diverged.
        CacheIncomplete: features are not cached, with the command that caches them.
        CacheMismatch: the cache, or its codes, were made from something else.
        WeightsError: the auto-encoder in the cache is not the one that wrote its codes.
        CacheUnwritable: no space, no permission; what is committed stays.
    """
    if not run.adapt:
        raise ConfigError(
            "the run file says nothing of a code: add a section [adapt.<teacher>], which may be "
            f"empty; teachers of this run: {', '.join(run.teachers) or 'none'}"
        )
    opened = open_run(run, must_exist=False)
    found = Cache.open(run.cache.path)
    # What all of them are made from is settled before any is made.
    plans = [plan_codes(opened, found, teacher) for teacher in run.adapt]
    if all(plan.is_done() for plan in plans):
        return [_done(found, plan) for plan in plans]
    cache = Cache.create(run.cache.path)  # sweeps what crashes left there
    with threads(run.cache.threads):
        return [_adapt(opened, cache, plan, on_progress) for plan in plans]


@dataclass(frozen=True)
class _Encoder:
    """The auto-encoder at work: its weights' sha256, what its file says, whether it is new."""

    model: AutoEncoder
    weights: str
    about: dict[str, Any]
    trained: bool
    device: str


def _adapt(opened: OpenedRun, cache: Cache, plan: CodePlan, on_progress: OnProgress) -> CodeReport:
    if plan.is_done():
        return _done(cache, plan)
    encoder = _encoder(cache, plan, on_progress)
    sources = []
    for source in plan.features:
        target = _define(opened, cache, plan, source, encoder)
        missing = sorted(set(range(target.shards)) - target.committed())
        job = CodeJob(
            features=plan.features[source],
            layer=plan.config.features,
            target=target,
            code=plan.config.code,
            model=encoder.model,
            batch=opened.run.cache.batch,
            device=encoder.device,
        )
        _write(job, missing, _told(on_progress, f"{plan.teacher}: write {source}"))
        sources.append(_source(plan, source, target, len(missing)))
    return _report(plan, encoder.weights, encoder.about, sources, trained=encoder.trained)


def _write(job: CodeJob, missing: list[int], on_frames: Callable[[int, int], None]) -> None:
    """Fill the missing shards, one after the other; a killed one is made again."""
    total, done = sum(len(job.target.shard_range(shard)) for shard in missing), 0
    for shard in missing:
        cache_codes(job, shard)
        done += len(job.target.shard_range(shard))
        on_frames(done, total)
    with suppress(StillroomError):  # nothing depends on it
        job.target.save_catalogue()


def _done(cache: Cache, plan: CodePlan) -> CodeReport:
    """What is there, where nothing is left to do."""
    about: dict[str, Any] = {}
    with suppress(WeightsError):  # it is not needed any more
        content = read_weights(cache, plan.set_name)
        about = {} if content is None else from_bytes(content, plan.config, "")[1]
    sources = [_source(plan, of, one, 0) for of, one in plan.codes.items() if one is not None]
    weights = plan.begun()[0].identity[ADAPT]["weights"]
    return _report(plan, weights, about, sources, trained=False)


def _told(on_progress: OnProgress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(stage, done, total)


def _report(
    plan: CodePlan,
    weights: str,
    about: dict[str, Any],
    sources: list[SourceCodes],
    *,
    trained: bool,
) -> CodeReport:
    return CodeReport(
        teacher=plan.teacher,
        features=plan.config.features,
        code=plan.config.code,
        set_name=plan.set_name,
        weights=weights,
        trained=trained,
        measures=Measures(**about["measures"]) if about else None,
        sources=tuple(sources),
    )


def _source(plan: CodePlan, source: str, target: ArtifactSet, now: int) -> SourceCodes:
    return SourceCodes(
        source=source,
        frames=target.count,
        bad=target.rows().num_rows - len(target.usable()),
        shards=now,
        already=target.shards - now,
        features_bytes=plan.features[source].sizes()[plan.config.features],
        code_bytes=sum(target.sizes().values()),
        fingerprint=target.fingerprint,
    )


def _encoder(cache: Cache, plan: CodePlan, on_progress: OnProgress) -> _Encoder:
    """The auto-encoder that is in the cache, or one that is trained now and put there."""
    device = best_device()
    where = cache.store.where(weights_path(plan.set_name))
    content = read_weights(cache, plan.set_name)
    trained = content is None
    if content is None and plan.begun():
        raise CacheIncomplete(
            f"{where}: the auto-encoder that wrote {plan.config.code} on {plan.begun()[0].source} "
            "is not here, and another would write other codes; copy this file from the cache that "
            f"the codes come from, or give [adapt.{plan.teacher}] another name"
        )
    if content is None:
        content = keep_weights(cache, plan.set_name, _train(plan, on_progress, device))
    model, about = from_bytes(content, plan.config, where)
    weights = weights_sha256(model)
    for one in plan.begun():
        there = one.identity[ADAPT]["weights"]
        if there != weights:
            raise WeightsError(
                f"{where}: not the auto-encoder that wrote {plan.config.code} on {one.source} "
                f"(sha256 {weights[:12]}..., there {there[:12]}...); copy that one here, or give "
                f"[adapt.{plan.teacher}] another name"
            )
    return _Encoder(model.to(device), weights, about, trained, device)


def _train(plan: CodePlan, on_progress: OnProgress, device: str) -> bytes:
    """Train, measure, and return the file's content."""
    frames = FeatureFrames(list(plan.features.values()), plan.config.features)
    if not len(frames):
        raise CacheIncomplete(
            f"no frame of {', '.join(plan.features)} is usable: {plan.config.features} is bad in "
            "all of them; see `stillroom cache info RUN.toml --bad`"
        )

    look, train, look_again = (
        _told(on_progress, f"{plan.teacher}: {stage}")
        for stage in ("look at features", "train", "measure")
    )
    statistics = covariance_of(frames, look)
    model = train_autoencoder(frames, plan.config, statistics, train, device)
    measures = measure(model, frames, statistics, look_again, device)
    about = {
        ADAPT: plan.config.identity(),
        "trained_on": {source: one.fingerprint for source, one in plan.features.items()},
        "frames": len(frames),
        "measures": asdict(measures),
    }
    return to_bytes(model, about)


def _define(
    opened: OpenedRun, cache: Cache, plan: CodePlan, source: str, encoder: _Encoder
) -> ArtifactSet:
    """The set of a source's codes, made if it is not there yet."""
    features, config = plan.features[source], plan.config
    given, storage = features.arrays[config.features], opened.preset.storage(config.code)
    stride = int(given.attributes["stride"]) * encoder.model.factor
    shape = code_shape(encoder.model, (given.shape[1], given.shape[2]))
    identity = {
        **{key: features.identity[key] for key in ("source", "canvas", "shard_frames", "teacher")},
        "artifacts": {config.code: storage.to_dict()},
        ADAPT: {
            **config.identity(),
            "weights": encoder.weights,
            "trained_on": encoder.about["trained_on"],
            "features": features.fingerprint,
        },
    }
    return cache.define(
        source,
        plan.set_name,
        identity,
        count=features.count,
        shard_frames=features.shard_frames,
        arrays=[
            ArraySpec(config.code, shape, storage.codec, storage.compressor, {"stride": stride})
        ],
    )
