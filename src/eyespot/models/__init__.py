"""The networks: pixels in, logits out.

On the way of the data: augmented, normalised images -> **model** -> logits -> loss or probabilities. One
file holds one architecture family; `registry` names them and is the only way in from a recipe or a bundle; `protocol`
says what each of them can do and what it refuses; `summary` makes their layer table. `registry` and `protocol` do not
import torch, so that a model can be looked up without waiting for it.
"""
