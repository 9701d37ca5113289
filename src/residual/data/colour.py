"""Colour augmentation along the principal components of ImageNet's pixels (AlexNet, section 4.1)."""

import torch
from torch import Tensor

# of the covariance of R, G, B on the 0..1 scale, as fb.resnet.torch published them
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (  # a row for each of R, G, B; a column for each eigenvalue
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def pca_colour(images: Tensor, alphas: Tensor) -> Tensor:
    """Add to every pixel of an image the same shift: the components, each times its alpha and eigenvalue.

    Args:
        images: [B, H, W, 3] on the 0..255 scale.
        alphas: [B, 3], mostly drawn from a normal distribution with standard deviation 0.1.

    Returns:
        float32 [B, H, W, 3], not clamped.
    """
    values, vectors = alphas.new_tensor(EIGENVALUES), alphas.new_tensor(EIGENVECTORS)
    shifts = 255 * (alphas * values) @ vectors.T
    return images.to(torch.float32) + shifts[:, None, None, :]
