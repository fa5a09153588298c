"""Use a trained model."""

from .detect import DetectedObjects, detect
from .predict import Predictions, predict
from .segment import SegmentedImage, segment

__all__ = ["DetectedObjects", "Predictions", "SegmentedImage", "detect", "predict", "segment"]
