"""Time the opening of a folder of many images, for the first time and with its list cached.

    python -m benchmarks.image_index --folders 1000 --files 1000 --below /dev/shm

The images are hard links to one file, so that a million of them need little space.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from PIL import Image

from hwnas.devices.memory import peak_mb, reset_peak
from hwnas.train.data.sources import DataConfig, open_data

_LINKS_PER_FILE = 30_000
"""Hard links to one file; ext4 takes 65,000."""


def make_images(root: Path, *, folders: int, files: int) -> None:
    """Make folders of classes with links to a small image."""
    source = root.parent / "source.png"
    for number in range(folders):
        folder = root / f"class{number:04d}"
        folder.mkdir(parents=True)
        for index in range(files):
            if (number * files + index) % _LINKS_PER_FILE == 0:
                source.unlink(missing_ok=True)
                Image.new("RGB", (8, 8)).save(source)
            os.link(source, folder / f"{index:06d}.png")


def open_timed(root: Path) -> str:
    """Open the folder as a training does; return time, memory and the number of images."""
    reset_peak()
    began, began_cpu = time.perf_counter(), time.process_time()
    data = open_data(DataConfig(name=str(root)), image_shape=(3, 8, 8))
    assert data.test is not None
    count = len(data.train) + len(data.heldout) + len(data.test)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return f"{count:,} images in {seconds:.1f} s, {cpu:.1f} s of them on the CPU, peak {peak_mb() or 0:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000, help="images of each folder")
    parser.add_argument("--below", type=Path, help="folder in which the images are made for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.below, prefix="hwnas-images-") as temporary:
        root = Path(temporary) / "images"
        os.environ["HWNAS_CACHE"] = str(Path(temporary) / "cache")
        make_images(root, folders=options.folders, files=options.files)
        time.sleep(2.5)  # times of a folder are trusted once they are two seconds old
        print("first: ", open_timed(root), flush=True)
        print("cached:", open_timed(root), flush=True)


if __name__ == "__main__":
    main()
