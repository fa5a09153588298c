"""Use a trained model."""

from .predict import Predictions, predict

__all__ = ["Predictions", "predict"]
