"""What images and labels exist, and how they reach the model.

The way of the data through this room:
`sources` -> `checks` and `packing` -> `dividing` -> `transforms` -> `loaders`.
"""
