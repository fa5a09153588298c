"""Use a trained model."""

from .predict import Predictions, predict
from .segment import SegmentedImage, segment

__all__ = ["Predictions", "SegmentedImage", "predict", "segment"]
