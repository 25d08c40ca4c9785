"""The model in training: a FLAIR with a convolutional tower, and the loss of each phase."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.model import FLAIR, IMAGE_MEAN, IMAGE_STD, ModelConfig
from training.batches import Batch
from training.data import to_teacher
from training.losses import conditioned_texts, own_texts, relative_error, sigmoid_loss
from training.teacher import Teacher

EARLY = 12  # blocks up to here see what the teacher's see; from there on the teacher has twice the stride
STAGE_ENDS = (2, 5, 9, EARLY)
# Weights of the losses end to end. Measured at the start of that phase, the gradients of the sigmoid losses in the
# trunk are 5 to 80 times those of the teacher's features: unweighted, they would drown them.
CONTRASTED, TOKENS, MEAN = 0.1, 3.0, 1.0
Losses = dict[str, Tensor]


class Student(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.flair = FLAIR(config)
        self.flair.towers.logit_bias.data.fill_(-5.0)  # a batch has some hundred pairs a picture, not 32,768
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    @property
    def trunk(self) -> nn.Sequential:
        trunk: nn.Sequential = self.flair.towers.visual.trunk
        return trunk

    def block_losses(self, batch: Batch, teacher: Teacher) -> Losses:
        """Each early block learns the teacher's output of that block from the teacher's own input to it."""
        ends = teacher.activations(to_teacher(batch.pictures), EARLY)
        outputs = [self.trunk[:2](self._normalised(batch))]
        outputs += [self.trunk[i](ends[i - 1]) for i in range(2, EARLY + 1)]
        return {f"block_{i}": relative_error(y, ends[i]) for i, y in enumerate(outputs, 1)}

    def distil_losses(self, batch: Batch, teacher: Teacher) -> Losses:
        """The whole trunk in a row: the ends of the early stages, and the last features, against the teacher's."""
        ends = teacher.activations(to_teacher(batch.pictures), EARLY)
        losses: Losses = {}
        x = self._normalised(batch)
        for i, block in enumerate(self.trunk):
            x = block(x)
            if i in STAGE_ENDS:
                losses[f"block_{i}"] = 0.5 * relative_error(x, ends[i])
        return losses | {"distilled": 2 * relative_error(x, batch.targets.permute(0, 3, 1, 2))}

    def head_losses(self, batch: Batch) -> Losses:
        """FLAIR's losses over the teacher's features in the place of the trunk's."""
        return self._flair_losses(batch, batch.targets.to(self.trunk[0][0].weight.dtype).flatten(1, 2))[1]

    def joint_losses(self, batch: Batch) -> Losses:
        """FLAIR's losses end to end; local tokens and mean features stay near what the teacher's features gave."""
        features = self.trunk(self._normalised(batch)).flatten(2).transpose(1, 2)
        local, losses = self._flair_losses(batch, features)
        return {name: CONTRASTED * loss for name, loss in losses.items()} | {
            "tokens": TOKENS * relative_error(local.transpose(1, 2), batch.targets.flatten(1, 2).transpose(1, 2)),
            "mean": MEAN * relative_error(features.mean(1), batch.mean),
        }

    @torch.no_grad()
    def teacher_tokens(self, features: Tensor) -> Tensor:
        """The local tokens that the teacher's features f[B, G, G, C] give, f[B, G, G, D]."""
        visual = self.flair.towers.visual
        places = features.to(visual.proj.device, visual.proj.dtype).flatten(1, 2)
        local: Tensor = visual.tokens(places)[1] @ visual.proj
        return local.unflatten(1, features.shape[1:3])

    def _flair_losses(self, batch: Batch, features: Tensor) -> tuple[Tensor, Losses]:
        """Trunk features f[B, P, W] -> local tokens f[B, P, D], and the two sigmoid losses.

        Text-conditioned: K + B - 1 texts an image; global: all texts.
        """
        flair = self.flair
        pooled, patches = flair.towers.visual.tokens(features)
        local = patches @ flair.towers.visual.proj
        text = flair.encode_text(batch.text)
        scale, bias = flair.towers.logit_scale.float().exp(), flair.towers.logit_bias.float()
        images, each, device = len(local), len(text) // len(local), local.device
        chosen = conditioned_texts(images, each, device)
        conditioned = scale * flair.scores(local, text[chosen]).float() + bias
        whole = scale * F.normalize(pooled.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T + bias
        own_first = torch.arange(chosen.shape[1], device=device).expand_as(chosen) < each
        return local, {
            "conditioned": sigmoid_loss(conditioned, own_first),
            "global": sigmoid_loss(whole, own_texts(images, each, device)),
        }

    def _normalised(self, batch: Batch) -> Tensor:
        """u8[B, S, S, 3] -> f[B, 3, S, S], as at indexing."""
        pictures = batch.pictures
        mean, std = (torch.tensor(value, device=pictures.device) * 255 for value in (IMAGE_MEAN, IMAGE_STD))
        return ((pictures.float() - mean) / std).permute(0, 3, 1, 2).to(self.trunk[0][0].weight.dtype)
