"""From a list of places to a training-ready geo-image dataset, as one distributed batch job."""

__version__ = "0.1.0"
