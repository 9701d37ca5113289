"""Errors of a model on a data set. May import models, data, zoo and exporters; nothing of training."""
