"""Tools of the group `cache`: measures of a cache, and new caches out of old ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stillroom.commands.options import (
    ADDRESS,
    JSON,
    SOURCE,
    example,
    print_result,
    with_cache,
    with_run,
)

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig


@click.command(
    epilog=example("stillroom cache fidelity examples/camvid.toml --codecs --plot mirrored.png")
)
@with_run
@click.option(
    "--frames", type=click.IntRange(min=1), default=16, show_default=True, help="Of each source."
)
@SOURCE
@click.option("--codecs", is_flag=True, help="Try every other codec on the same live outputs.")
@click.option(
    "--plot", type=click.Path(path_type=Path),
    help="Also draw mirrored frames as a PNG; where there are several sets, each has its own, "
    "whose name ends in -SOURCE-TEACHER.",
)  # fmt: skip
@JSON
def fidelity(run: RunConfig, as_json: bool, **options: Any) -> None:
    """Run the teachers again on a few frames: what did storing cost, and what does warping cost?

    Students learn from targets that are cached and then warped with the frame: these are compared
    with the teacher live on the warped frame.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import measures
    from stillroom.pipeline.cache_tools.fidelity import FidelityRequest, measure_fidelity

    with progress.Bars("frames") as bars:
        on_frame = bars.counter(f"fidelity {run.cache.path}")
        found = measure_fidelity(run, FidelityRequest(**options), on_frame)
    document = {"sets": [one.to_dict() for one in found]}
    print_result(document, measures.fidelity(found), as_json)


@click.command(
    epilog=example("stillroom cache stats runs/camvid.cache --features penultimate --out stats.npz")
)
@with_cache
@SOURCE
@click.option("--features", metavar="LAYER", help="Also means and variances of features/LAYER.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE",
    help="Where those of the features go: .npz or .safetensors.",
)  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw charts as a PNG.")
@ADDRESS
@JSON
def stats(folder: Path | str, address: str | None, as_json: bool, **options: Any) -> None:
    """Count classes, confidence, and what each threshold would keep, and how right that is."""
    from stillroom.commands import progress
    from stillroom.commands.show import measures
    from stillroom.pipeline.cache_tools.statistics import StatsRequest, measure_stats

    request = StatsRequest(**options)
    with progress.Bars("shards") as bars:
        on_shard = bars.counter(f"stats {folder}")
        found = measure_stats(folder, request, address=address, on_shard=on_shard)
    print_result(found.to_dict(), measures.stats(found), as_json)


@click.command(epilog=example("stillroom cache size examples/camvid.toml"))
@with_run
@JSON
def size(run: RunConfig, as_json: bool) -> None:
    """Frames, shards and bytes of each tier, measured on a few frames; writes nothing."""
    from stillroom.commands import progress
    from stillroom.commands.show import measures
    from stillroom.pipeline.cache_tools.size import plan_size

    with progress.Bars("sets") as bars:
        found = plan_size(run, bars.counter(f"size {run.cache.path}"))
    print_result(found.to_dict(), measures.sizes(found), as_json)


@click.command(epilog=example("stillroom cache adapt run.toml --set adapt.fpn.channels=64"))
@with_run
@JSON
def adapt(run: RunConfig, as_json: bool) -> None:
    """Train an auto-encoder on cached features, and add its code of every frame. Resumes.

    A code is a small artifact that students learn from by the terms adaptation and affinity. The
    teachers and layers are those of the [adapt] sections.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import changes
    from stillroom.pipeline.cache_tools.adapt import adapt_cache

    with progress.Bars() as bars:
        found = adapt_cache(run, bars.advance)
    document = {"cache": str(run.cache.path), "codes": [asdict(one) for one in found]}
    print_result(document, changes.adapted(run.cache.path, found), as_json)


@click.command(
    epilog=example("stillroom cache transcode runs/camvid.cache small.cache --preset compact")
)
@click.argument("cache_path", metavar="CACHE")
@click.argument("out", metavar="OUT")
@click.option("--preset", help="fast, compact or exact; left out, all keeps the storage it has.")
@click.option(
    "--codec", "codecs", multiple=True, metavar="ARTIFACT=CODEC",
    help="Store one artifact otherwise, e.g. --codec logits=half.",
)  # fmt: skip
@click.option("--shard-frames", type=click.IntRange(min=1), help="Frames in a shard.")
@ADDRESS
@JSON
def transcode(
    cache_path: str,
    out: str,
    preset: str | None,
    codecs: tuple[str, ...],
    shard_frames: int | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Write the same frames in another tier, other codecs or other shards. Resumes.

    The cache that is read stays as it is; no teacher runs.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import changes
    from stillroom.pipeline.cache_tools.transcode import Change, transcode_cache
    from stillroom.pipeline.run_file.loading import settings_of

    change = Change(preset, settings_of(codecs, "--codec"), shard_frames)
    with progress.Bars("shards") as bars:
        on_shard = bars.counter(f"transcode {cache_path}")
        found = transcode_cache(cache_path, out, change, address=address, on_shard=on_shard)
    document = {"cache": out, "sets": [asdict(one) for one in found]}
    print_result(document, changes.transcoded(out, found), as_json)


@click.command(epilog=example("stillroom cache copy runs/camvid.cache /mnt/big/camvid.cache"))
@click.argument("cache_path", metavar="CACHE")
@click.argument("out", metavar="OUT")
@SOURCE
@click.option(
    "--only", "set_name", metavar="SET", help='Only this set, "frames" or a teacher; else all.'
)
@JSON
def copy(cache_path: str, out: str, as_json: bool, **options: Any) -> None:
    """Copy a cache, every object checked against its checksum on the way. Resumes."""
    from stillroom.commands import progress
    from stillroom.commands.show import changes
    from stillroom.pipeline.cache_tools.copy_cache import copy_cache

    with progress.Bars("shards") as bars:
        found = copy_cache(cache_path, out, on_shard=bars.counter(f"copy {cache_path}"), **options)
    document = {"cache": out, "sets": [asdict(one) for one in found]}
    print_result(document, changes.copied(out, found), as_json)


TOOLS = (adapt, fidelity, stats, size, transcode, copy)
