"""Experiments of several runs: ablations and the published studies, point by point, resumable at any moment."""
