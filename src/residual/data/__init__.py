"""Datasets: files, preprocessing, sampler, augmentation, loader. Imports errors, runtime, models, recipes."""
