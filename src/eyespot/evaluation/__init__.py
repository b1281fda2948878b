"""From a trained model to numbers and answers.

The way of the data through this room: `bundle` (the shippable model) -> `predictor` (pictures in, logits and classes
out, several `views` of a picture averaged) -> `evaluate` (a labelled split once through the predictor) -> `metrics`.
"""
