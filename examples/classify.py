"""Classify pictures with an exported model: python classify.py model.onnx cat.jpg (needs onnxruntime, pillow).

What is transparent becomes white, as in `eyespot predict`. Grey of 16 bits is not handled: Pillow cuts it off at 255.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
names = json.loads(about["class_names"])
for path in sys.argv[2:]:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    pixels = np.asarray(white)
    probs, _, *score = session.run(None, {"images": pixels[None]})
    unknown = "unknown, perhaps " if score and score[0][0] > float(about["unknown_threshold"]) else ""
    print(f"{unknown}{names[probs[0].argmax()]} {probs[0].max():.1%}  {path}")
