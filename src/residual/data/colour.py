"""PCA colour augmentation: a random shift of each image along the principal colours of ImageNet."""

import torch
from torch import Tensor

# of pixel values on the 0..1 scale, as fb.resnet.torch published them; rows of the vectors: R, G, B
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def pca_colour(images: Tensor, alphas: Tensor) -> Tensor:
    """Shift the colours of images [B, H, W, 3] on the 0..255 scale (section 3.4; AlexNet, section 4.1).

    `alphas` [B, 3] are normal draws, one for each principal colour. Returns float32 on the images' device,
    not clamped to 0..255.
    """
    values = torch.tensor(EIGENVALUES, device=alphas.device)
    vectors = torch.tensor(EIGENVECTORS, device=alphas.device)
    # a sum, not a matrix product, which some devices would round to fewer bits
    shifts = 255 * (vectors * (alphas.float() * values)[:, None]).sum(2)
    return images + shifts.to(images.device)[:, None, None]
