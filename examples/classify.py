"""Classify pictures with an exported model: python classify.py model.onnx cat.jpg (needs onnxruntime, pillow)."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
names = json.loads(about["class_names"])
for path in sys.argv[2:]:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    probs, _, *score = session.run(None, {"images": pixels[None]})
    unknown = "unknown, perhaps " if score and score[0][0] > float(about["unknown_threshold"]) else ""
    print(f"{unknown}{names[probs[0].argmax()]} {probs[0].max():.1%}  {path}")
