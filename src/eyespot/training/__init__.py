"""From batches to weights: optimizers, schedules, checkpoints and the loop."""
