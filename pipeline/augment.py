"""Random training crops and flips, a whole batch at a time, on the batch's own device."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.device import send


def augment(inputs: Tensor, generator: torch.Generator, *, min_crop: float, flip: bool) -> Tensor:
    """A random view of each image [B, 3, H, W]: a crop unless `min_crop` is 1, a flip where wanted."""
    if min_crop < 1:
        inputs = random_resized_crop(inputs, generator, min_crop)
    return random_flip(inputs, generator) if flip else inputs


def random_resized_crop(inputs: Tensor, generator: torch.Generator, min_area: float) -> Tensor:
    """A random part of each image [B, 3, H, W], stretched to full size.

    As torchvision's RandomResizedCrop: the share of the area is U(min_area, 1), the aspect log-uniform in [3/4, 4/3],
    but drawn for each image of the batch and taken in one bilinear sampling.
    """
    count = len(inputs)
    area = min_area + (1 - min_area) * torch.rand(count, generator=generator)
    aspect = ((2 * torch.rand(count, generator=generator) - 1) * torch.tensor(4 / 3).log()).exp()
    half = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # [B, 2] of the half side
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - half)
    affine = torch.cat([torch.diag_embed(half), centre[:, :, None]], 2)  # [B, 2, 3]
    grid = functional.affine_grid(send(affine, inputs.device), list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)


def random_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Every second image [B, 3, H, W], at random, mirrored left to right."""
    mirrored = send(torch.rand(len(inputs), generator=generator) < 0.5, inputs.device)
    return torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
