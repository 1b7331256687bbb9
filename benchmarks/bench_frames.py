"""What a cached frame takes on disk and to decode, in what forms, against the JPEG it came from.

    pip install -r benchmarks/requirements.txt
    python benchmarks/bench_frames.py --data ../shared/data

CamVid's frames as they are, and COCO's as they are and on a canvas of 360x480. Every form gives the
same pixels back. CPU milliseconds of one thread, medians over rounds in which all forms take turns;
only their ratios mean anything. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import cv2
import imagecodecs
import numpy as np

from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.compressors import compress, compressor_from_dict, decompress

STORED = {
    "raw, lz4 (preset fast, exact at level 1)": ("raw", "blosc"),
    "raw, zstd 3, bitshuffle (preset compact)": (
        "raw",
        {"name": "blosc", "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"},
    ),
    "rgb, lz4hc, bitshuffle": (
        "rgb",
        {"name": "blosc", "cname": "lz4hc", "clevel": 5, "shuffle": "bitshuffle"},
    ),
    "rgb, zstd 1": ("rgb", "zstd"),
}


def as_stored(codec, compressor):
    codec, compressor = codec_from_dict(codec), compressor_from_dict(compressor)

    def encode(image):
        return compress(compressor, codec.encode(image).values), image.shape

    def decode(encoded):
        content, shape = encoded
        out = np.empty(shape, np.uint8)
        decompress(compressor, np.frombuffer(content, np.uint8), out)
        return codec.decode(out, {}, out)

    return encode, decode


FORMS = {name: as_stored(*form) for name, form in STORED.items()} | {
    "QOI": (imagecodecs.qoi_encode, imagecodecs.qoi_decode),
    "PNG, level 5": (lambda image: imagecodecs.png_encode(image, level=5), imagecodecs.png_decode),
    "JPEG-LS": (imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    "WebP, lossless": (
        lambda image: imagecodecs.webp_encode(image, lossless=True),
        imagecodecs.webp_decode,
    ),
    "JPEG XL, lossless, effort 1": (
        lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=1, numthreads=1),
        lambda content: imagecodecs.jpegxl_decode(content, numthreads=1),
    ),
    "JPEG XL, lossless, effort 3": (
        lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=3, numthreads=1),
        lambda content: imagecodecs.jpegxl_decode(content, numthreads=1),
    ),
}


def size_of(encoded):
    return len(encoded[0] if isinstance(encoded, tuple) else encoded)


def timed(function, argument):
    began = time.thread_time()
    made = function(argument)
    return made, 1000 * (time.thread_time() - began)


def measure(files, images, rounds):
    """Bytes, and milliseconds to encode and to decode, by form: a list of each over the frames."""
    rows = {"the JPEG itself": [[], [0.0], []], **{name: [[], [], []] for name in FORMS}}
    for file, image in zip(files, images, strict=True):
        sides = {"the JPEG itself": (imagecodecs.jpeg_decode, file.read_bytes())}
        for name, (encode, decode) in FORMS.items():
            encoded, spent = timed(encode, image)
            if not np.array_equal(decode(encoded), image):
                raise ValueError(f"{name} gave other pixels back")
            rows[name][1].append(spent)
            sides[name] = (decode, encoded)
        for name, (_, encoded) in sides.items():
            rows[name][0].append(size_of(encoded))
        spent = [{name: timed(*side)[1] for name, side in sides.items()} for _ in range(rounds)]
        for name in sides:
            rows[name][2].append(statistics.median(each[name] for each in spent))
    return rows


def show(title, rows):
    print(f"\n{title}\n\n| form | kB a frame | of the JPEG | encode, ms | decode, ms |")
    print("|---|---|---|---|---|")
    source = np.mean(rows["the JPEG itself"][0])
    for name, (sizes, encode, decode) in rows.items():
        size, spent = np.mean(sizes), f"{statistics.median(encode):.1f}" if any(encode) else ""
        print(f"| {name} | {size / 1000:.0f} | {size / source:.1f} | {spent} |"
              f" {statistics.median(decode):.2f} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    for folder, canvas in (
        ("camvid/test", (360, 480)),
        ("coco/val2017", None),
        ("coco/val2017", (360, 480)),
    ):
        root = given.data.resolve() / folder
        source = open_images(ImagesConfig(kind="images", root=root))
        places = np.linspace(0, len(source) - 1, given.frames).astype(int)
        files = [next(root.rglob(f"{source.frame_ids[i]}*")) for i in places]
        frames = [source.load(int(i)) for i in places]
        if canvas is not None:
            frames = [to_canvas(frame, canvas) for frame in frames]
        title = f"{folder}, {'as they are' if canvas is None else '{}x{}'.format(*canvas)}"
        show(title, measure(files, [frame.image for frame in frames], given.rounds))


if __name__ == "__main__":
    main()
