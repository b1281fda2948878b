"""Classify pictures with an exported model: python classify.py model.onnx cat.jpg (needs onnxruntime, pillow).

As in `eyespot predict`, what is transparent becomes white, and grey of 16 bits is scaled to 8.
"""

import json
import sys

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf, NoSuchFile
from PIL import Image, ImageOps

if len(sys.argv) < 3:
    sys.exit("usage: python classify.py model.onnx PICTURE...")
try:
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names = json.loads(about["class_names"])
except (Fail, InvalidProtobuf, NoSuchFile, KeyError):
    sys.exit(f"error: no file of `eyespot export` in {sys.argv[1]}: make one with eyespot export RUN")
bad = 0
for path in sys.argv[2:]:
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
        if picture.mode == "F":
            raise ValueError("its grey is floating-point numbers: save it with 8 or 16 bits")
        if picture.mode.startswith("I"):  # grey of 16 bits, which convert would cut off at 255
            picture = Image.fromarray(np.rint(np.asarray(picture).clip(0, 65535) / 257).astype(np.uint8))
        picture = picture.convert("RGBA")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for bad files
        bad += 1
        print(f"error: {path} cannot be read as a picture: {error}", file=sys.stderr)
        continue
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    pixels = np.asarray(white)
    probs, _, *score = session.run(None, {"images": pixels[None]})
    unknown = "unknown, perhaps " if score and score[0][0] > float(about["unknown_threshold"]) else ""
    print(f"{unknown}{names[probs[0].argmax()]} {probs[0].max():.1%}  {path}")
sys.exit(bad > 0)
