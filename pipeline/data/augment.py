"""Random training crops and flips, a whole batch at a time, on the batch's own device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.machine.device import send


@dataclass(frozen=True)
class Views:
    """The random draws for a batch of images, on the CPU."""

    crops: Tensor | None  # affine maps [B, 2, 3] from a view to its image
    mirrored: Tensor | None  # bool [B]

    def of(self, inputs: Tensor, part: slice = slice(None)) -> Tensor:
        """The views of images [b, 3, H, W], which are a part of the batch."""
        if self.crops is not None:
            grid = functional.affine_grid(
                send(self.crops[part], inputs.device), list(inputs.shape), align_corners=False
            )
            inputs = functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)
        if self.mirrored is not None:
            mirrored = send(self.mirrored[part], inputs.device)
            inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
        return inputs


def draw_views(count: int, generator: torch.Generator, *, min_crop: float, flip: bool) -> Views:
    """Draw views of B images: crops unless `min_crop` is 1; with `flip`, half of them at random are mirrored."""
    crops = draw_crops(count, generator, min_crop) if min_crop < 1 else None
    return Views(crops, torch.rand(count, generator=generator) < 0.5 if flip else None)


def draw_crops(count: int, generator: torch.Generator, min_area: float) -> Tensor:
    """Draw random crops of B images, each to be stretched to full size, as affine maps [B, 2, 3].

    As in torchvision's RandomResizedCrop, the share of the area is U(min_area, 1) and the aspect is log-uniform in
    [3/4, 4/3]. Here each image of a batch gets its own draw, and one bilinear sampling takes all crops.
    """
    area = min_area + (1 - min_area) * torch.rand(count, generator=generator)
    aspect = ((2 * torch.rand(count, generator=generator) - 1) * torch.tensor(4 / 3).log()).exp()
    half = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # [B, 2] half sides
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - half)
    return torch.cat([torch.diag_embed(half), centre[:, :, None]], 2)


def augment(inputs: Tensor, generator: torch.Generator, *, min_crop: float, flip: bool) -> Tensor:
    """A random view of each image [B, 3, H, W]."""
    return draw_views(len(inputs), generator, min_crop=min_crop, flip=flip).of(inputs)
