"""`cache adapt`: an auto-encoder trained on cached features, and its codes as a new artifact."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.codes import ADAPT, plan_codes
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

    from stillroom.pipeline.cache_tools.codes import CodePlan
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

    Attributes:
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

    Args:
        on_progress: called with (stage, steps done, steps in all)

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
    # What all of them are made from is checked before any is made.
    plans = [plan_codes(opened, found, teacher) for teacher in run.adapt]
    if all(plan.is_done() for plan in plans):
        return [_done(found, plan) for plan in plans]
    cache = Cache.create(run.cache.path)  # sweeps what crashes left there
    with threads(run.cache.threads):
        return [
            _done(cache, plan)
            if plan.is_done()
            else _Adapter(opened, cache, plan, on_progress).run()
            for plan in plans
        ]


def _done(cache: Cache, plan: CodePlan) -> CodeReport:
    """Report codes that are complete."""
    about: dict[str, Any] = {}
    with suppress(WeightsError):  # it is not needed any more
        content = read_weights(cache, plan.set_name)
        about = {} if content is None else from_bytes(content, plan.config, "")[1]
    sources = [_source(plan, of, one, 0) for of, one in plan.codes.items() if one is not None]
    weights = plan.begun()[0].identity[ADAPT]["weights"]
    return _report(plan, weights, about, sources, trained=False)


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


@dataclass(frozen=True)
class _Encoder:
    """The auto-encoder, the sha256 of its weights, and the metadata of its file."""

    model: AutoEncoder
    weights: str
    about: dict[str, Any]


@dataclass(frozen=True)
class _Adapter:
    """Makes the code of one teacher."""

    opened: OpenedRun
    cache: Cache
    plan: CodePlan
    on_progress: OnProgress
    device: str = field(default_factory=best_device)

    def run(self) -> CodeReport:
        plan = self.plan
        if plan.is_done():
            return _done(self.cache, plan)
        content = read_weights(self.cache, plan.set_name)
        trained = content is None
        encoder = self._encoder(content)
        sources = [self._write(source, encoder) for source in plan.features]
        return _report(plan, encoder.weights, encoder.about, sources, trained=trained)

    def _encoder(self, content: bytes | None) -> _Encoder:
        """Load the auto-encoder that is in the cache, or train one and put it there."""
        plan = self.plan
        where = self.cache.store.where(weights_path(plan.set_name))
        if content is None and plan.begun():
            raise CacheIncomplete(
                f"{where}: the auto-encoder that wrote {plan.config.code} on "
                f"{plan.begun()[0].source} is not here, and another would write other codes; copy "
                "this file from the cache that the codes come from, or give "
                f"[adapt.{plan.teacher}] another name"
            )
        if content is None:
            content = keep_weights(self.cache, plan.set_name, self._train())
        model, about = from_bytes(content, plan.config, where)
        weights = weights_sha256(model)
        for one in plan.begun():
            there = one.identity[ADAPT]["weights"]
            if there != weights:
                raise WeightsError(
                    f"{where}: not the auto-encoder that wrote {plan.config.code} on {one.source} "
                    f"(sha256 {weights[:12]}..., there {there[:12]}...); copy that one here, or "
                    f"give [adapt.{plan.teacher}] another name"
                )
        return _Encoder(model.to(self.device), weights, about)

    def _train(self) -> bytes:
        """Train and measure an auto-encoder; return the content of its file."""
        config, features = self.plan.config, self.plan.features
        frames = FeatureFrames(list(features.values()), config.features)
        if not len(frames):
            raise CacheIncomplete(
                f"no frame of {', '.join(features)} is usable: {config.features} is bad in "
                "all of them; see `stillroom cache info RUN.toml --bad`"
            )
        statistics = covariance_of(frames, self._stage("read features"))
        on_train, on_measure = self._stage("train"), self._stage("measure")
        for times in config.lengths:
            model = train_autoencoder(frames, config, statistics, on_train, self.device, times)
            measures = measure(model, frames, statistics, on_measure, self.device)
            if measures.beats_pca:
                break
        about = {
            ADAPT: config.identity(),
            "trained_on": {source: one.fingerprint for source, one in features.items()},
            "frames": len(frames),
            "measures": asdict(measures),
        }
        return to_bytes(model, about)

    def _stage(self, name: str) -> Callable[[int, int], None]:
        return partial(self.on_progress, f"{self.plan.teacher}: {name}")

    def _write(self, source: str, encoder: _Encoder) -> SourceCodes:
        """Fill the missing shards of a source, one after the other."""
        config, target = self.plan.config, self._define(source, encoder)
        missing = sorted(set(range(target.shards)) - target.committed())
        frames = [len(target.shard_range(shard)) for shard in missing]
        on_frames = self._stage(f"write {source}")
        job = CodeJob(
            features=self.plan.features[source],
            layer=config.features,
            target=target,
            code=config.code,
            model=encoder.model,
            batch=self.opened.run.cache.batch,
            device=self.device,
        )
        job.features.watch()
        for shard, done in zip(missing, accumulate(frames), strict=True):
            cache_codes(job, shard)
            on_frames(done, sum(frames))
        with suppress(StillroomError):  # nothing depends on it
            target.save_catalogue()
        return _source(self.plan, source, target, len(missing))

    def _define(self, source: str, encoder: _Encoder) -> ArtifactSet:
        """Return the set of a source's codes, made if it is not there yet."""
        features, config = self.plan.features[source], self.plan.config
        given, storage = features.arrays[config.features], self.opened.preset.storage(config.code)
        stride = int(given.attributes["stride"]) * encoder.model.factor
        shape = code_shape(encoder.model, (given.shape[1], given.shape[2]))
        kept = ("source", "canvas", "shard_frames", "teacher")
        identity = {
            **{key: features.identity[key] for key in kept},
            "artifacts": {config.code: storage.to_dict()},
            ADAPT: {
                **config.identity(),
                "weights": encoder.weights,
                "trained_on": encoder.about["trained_on"],
                "features": features.fingerprint,
            },
        }
        spec = ArraySpec(config.code, shape, storage.codec, storage.compressor, {"stride": stride})
        return self.cache.define(
            source,
            self.plan.set_name,
            identity,
            count=features.count,
            shard_frames=features.shard_frames,
            arrays=[spec],
        )
