"""Which square of a strip reaches the model: a random one along the long side in training, else the middle one.

Before this: `packing` or the streaming workers kept strips (`fit = "short-side"`). After this: a `Batch` of squares.
"""

from __future__ import annotations

import numpy as np
import torch

from eyespot.arrays import Int64Array
from eyespot.data.resizing import RowFormat, largest_margin_px, margin_px
from eyespot.seeds import derive_seed


class Windows:
    """The square that each picture of a split gives in each epoch; a function of seed and epoch alone.

    Args:
        sizes_px: int64 (N, 2), width and height of the decoded pictures.
        row_format: Of the strips.
        random: Places along the long side change with the epoch; False: the middle.
        seed: Of the random places.
        device: Where the rows are.

    Source:
        Random crop of the picture resized by its short side: Krizhevsky et al. 2012, section 4.1, as torchvision's
        `Resize(S), RandomCrop(S)`. Changed: at most 16:9 of a longer picture is kept.
    """

    def __init__(
        self, sizes_px: Int64Array, row_format: RowFormat, *, random: bool, seed: int = 0, device: str = "cpu"
    ) -> None:
        size_px = row_format.size_px
        self._size_px = size_px
        self._middle = largest_margin_px(size_px)
        margins = [margin_px(width, height, size_px) for width, height in sizes_px.tolist()]
        self._margins = torch.tensor(margins, dtype=torch.int64)  # (N,)
        self._portrait = torch.from_numpy(np.ascontiguousarray(sizes_px[:, 1] > sizes_px[:, 0])).to(device)  # (N,)
        self._random = random
        self._seed = seed
        self._device = device

    def first_columns(self, epoch: int) -> torch.Tensor:
        """Return int64 (N,), on the device: where each picture's square begins in its strip."""
        first = torch.full_like(self._margins, self._middle)
        if self._random:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "window", epoch))
            # In [0, 2 * margin], each as likely; float64, so that the product never rounds up to the next one.
            places = (torch.rand(len(first), generator=generator, dtype=torch.float64) * (2 * self._margins + 1)).long()
            first += places - self._margins
        return first.to(self._device)

    def cut(
        self, strips: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, first_columns: torch.Tensor
    ) -> torch.Tensor:
        """Return the squares of a batch.

        Args:
            strips: uint8 (M, S, L, C), of which nothing but the squares is read.
            rows: int64 (B,), the strips of the batch, each in [0, M).
            positions: int64 (B,), the pictures' positions in the split, each in [0, N).
            first_columns: int64 (N,), as `first_columns` returns them.

        Returns:
            uint8 (B, S, S, C), contiguous, standing as in the file.
        """
        squares = strips.unfold(2, self._size_px, 1)  # (M, S, L - S + 1, C, S), a view
        lying = squares[rows, :, first_columns[positions]].transpose(2, 3)  # (B, S, S, C)
        portrait = self._portrait[positions].view(-1, 1, 1, 1)
        return torch.where(portrait, lying.transpose(1, 2), lying).contiguous()
