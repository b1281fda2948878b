"""Sweeps: many short trainings over a space of settings, the best one chosen on val, and only that one tested.

`space` (what may vary) -> `chooser` (Optuna says what is tried next) -> `engine` (Ray Tune runs it) -> `trial` (one run
folder each) -> `journal` (the truth about what is done) -> `report`. `sweep` is the verb.
"""
