"""Classify pictures with an exported model: python classify.py model.onnx cat.jpg (needs onnxruntime, pillow)."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
for path in sys.argv[2:]:
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    (probs,) = session.run(["probs"], {"images": pixels[None]})
    print(f"{names[probs[0].argmax()]} {probs[0].max():.1%}  {path}")
