"""FLAIR in torch: OpenCLIP's two towers and a text-conditioned attention pool over the image's local tokens.

Source: FLAIR, CVPR 2025, arXiv 2412.03561. Shapes: B images, T texts, P patches, D embedding, H pool heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.core.errors import WeightsError
from flairsearch.model import checkpoints
from flairsearch.model.architecture import check_config, check_tensors
from flairsearch.model.attention_pool import LAYER_NORM_EPS, FoldedPool
from flairsearch.model.conv_tower import ConvTower, Stage
from flairsearch.model.tokenizer import unseen_words

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's mean of RGB values in [0, 1].
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)  # OpenAI's standard deviation of RGB values in [0, 1].

# These tensors have another name in FLAIR (key) than in OpenCLIP (value).
_OPENCLIP_NAMES = {"image_post.proj": "visual.proj", "text_post.proj": "text_projection"}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a FLAIR model; the fields are OpenCLIP's, plus the number of heads of the pool."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    pool_heads: int
    context_length: int = 77
    vocab_size: int = 49408
    conv_stages: tuple[Stage, ...] = ()  # Stages of a ConvTower; empty for a vision transformer.
    classes: int = 0  # Classes of a ConvTower's classifier.
    score: str = "flair"  # Ranking score: FLAIR's conditioned cosine; "sum" is its mean with the global cosine.

    @property
    def grid(self) -> int:
        """Number of patches along one side."""
        return self.image_size // self.patch_size

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Read a configuration from JSON.

        Raises WeightsError when the text is not a configuration.
        """
        try:
            check_config(json.loads(text))
            config = ModelConfig(**json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WeightsError(f"not a model configuration ({error}) - use a file saved by flairsearch") from None
        return replace(config, conv_stages=tuple((e, k, c, n, s) for e, k, c, n, s in config.conv_stages))

    def to_json(self) -> str:
        """Return the JSON that `from_json` reads."""
        return json.dumps(asdict(self))


class TextConditionedPool(nn.Module):
    """Attention of one text over an image's local tokens, with a zero key and a zero value appended last.

    pool(t, L): query, key and value have a LayerNorm each; H heads; softmax over P + 1 keys; sum over P values (the
    zero value adds nothing); output projection. There is no residual and no MLP. Parameter names are FLAIR's.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_q = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.ln_k = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.ln_v = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = _PackedProjections(dim)

    def forward(self, text: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Texts f[T, D] and local tokens f[B, P, D] -> pooled f[B, T, D], attention f[B, T, P].

        The attention is the mean over the heads. Texts f[B, T, D] give every image its own texts.
        """
        _, patches, dim = local.shape
        shape = (self.heads, dim // self.heads)
        weight_q, weight_k, weight_v = self.attn.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = self.attn.in_proj_bias.chunk(3)
        q = F.linear(self.ln_q(text), weight_q, bias_q).unflatten(-1, shape) * shape[1] ** -0.5
        k = F.linear(self.ln_k(local), weight_k, bias_k).unflatten(-1, shape)
        v = F.linear(self.ln_v(local), weight_v, bias_v).unflatten(-1, shape)
        logits = torch.einsum("thd,bphd->bhtp" if text.ndim == 2 else "bthd,bphd->bhtp", q, k)
        attention = F.pad(logits, (0, 1)).softmax(-1)[..., :patches]  # The padded 0 is the logit of the zero key.
        heads = torch.einsum("bhtp,bphd->bthd", attention, v).flatten(-2)
        return self.attn.out_proj(heads), attention.mean(1)


class _PackedProjections(nn.Module):
    """The parameters of a multi-head attention under torch's names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)


class FLAIR(nn.Module):
    """The whole model: `encode_image`, `encode_text`, `get_logits`, `get_logits_as_clip`, `preprocess`, `tokenize`."""

    def __init__(
        self, config: ModelConfig, name: str = "unnamed", weights_hash: str = "", seen: frozenset[int] | None = None
    ) -> None:
        super().__init__()
        self.config, self.name, self.weights_hash = config, name, weights_hash
        self._seen = seen  # Token ids of the training texts; None: any token may have been seen.
        transformer = not config.conv_stages
        vision = CLIPVisionCfg(
            layers=config.vision_layers,
            width=config.vision_width if transformer else 1,
            head_width=config.vision_width // config.vision_heads if transformer else 1,
            patch_size=config.patch_size,
            image_size=config.image_size,
            output_tokens=True,
        )
        text = CLIPTextCfg(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_layers,
        )
        self.towers = CLIP(config.embed_dim, vision, text, init_logit_bias=-10.0)
        if not transformer:
            self.towers.visual = ConvTower(
                config.conv_stages, config.vision_width, config.classes, config.embed_dim, LAYER_NORM_EPS
            )
        self.visual_proj = TextConditionedPool(config.embed_dim, config.pool_heads)

    # -- Weights under FLAIR's names

    def flair_state(self) -> dict[str, Tensor]:
        """Return every tensor under its published name."""
        published = {ours: theirs for theirs, ours in _OPENCLIP_NAMES.items()}
        names = ((name.removeprefix("towers."), tensor) for name, tensor in self.state_dict().items())
        return {published.get(name, name): tensor for name, tensor in names}

    def load_flair_state(self, state: Mapping[str, Tensor]) -> None:
        """Load tensors under FLAIR's names.

        Raises WeightsError on a missing, extra or misshapen tensor; a missing `logit_bias` counts as 0.
        """
        state = {"logit_bias": torch.zeros(()), **state}
        check_tensors(
            {name: tuple(tensor.shape) for name, tensor in state.items()},
            {name: tuple(tensor.shape) for name, tensor in self.flair_state().items()},
        )
        pool = "visual_proj."
        renamed = {
            name if name.startswith(pool) else f"towers.{_OPENCLIP_NAMES.get(name, name)}": tensor
            for name, tensor in state.items()
        }
        self.load_state_dict(renamed)

    # -- Inputs

    @cached_property
    def preprocess(self) -> Any:
        """The reference's transform, PIL picture -> f32[3, S, S]: short side to S (bicubic), centre crop, normalise."""
        return open_clip.image_transform(self.config.image_size, is_train=False, mean=IMAGE_MEAN, std=IMAGE_STD)

    @cached_property
    def _tokenizer(self) -> open_clip.SimpleTokenizer:
        return open_clip.SimpleTokenizer(context_length=self.config.context_length)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokenize texts to i64[T, 77]; a text that is too long is cut and its last id becomes EOT."""
        tokens: Tensor = self._tokenizer(texts)
        return tokens

    def unseen_words(self, text: str) -> list[str]:
        """Return the words of a text that are in no training text of the model (`tokenizer.unseen_words`)."""
        return unseen_words(text, self._seen)

    # -- Towers

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images f[B, 3, S, S] as global tokens f[B, D] and local tokens f[B, P, D]; neither is normalised."""
        pooled, patches = self.towers.visual(image)
        return pooled, patches @ self.towers.visual.proj

    def encode_text(self, text: Tensor, full_context: bool = False) -> Tensor:
        """Encode token ids i64[T, 77] as global text tokens f[T, D], not normalised.

        The tower is causal and only the EOT position is read, so positions after the last EOT are skipped;
        `full_context=True` computes them too, as OpenCLIP does.
        """
        towers = self.towers
        end = text.argmax(-1)  # EOT has the largest id.
        length = text.shape[1] if full_context else int(end.max()) + 1
        x = towers.token_embedding(text[:, :length]) + towers.positional_embedding[:length]
        x = towers.transformer(x, attn_mask=towers.attn_mask[:length, :length].to(x.dtype))
        if full_context:
            x = towers.ln_final(x)
            x = x[torch.arange(len(x), device=x.device), end]
        else:
            x = towers.ln_final(x[torch.arange(len(x), device=x.device), end])
        vectors: Tensor = x @ towers.text_projection
        return vectors

    # -- Scores

    def scores(self, local: Tensor, text: Tensor) -> Tensor:
        """Return cos(pool(t, L), t), f[B, T], of local tokens f[B, P, D] and texts f[T, D] or f[B, T, D]."""
        pooled, _ = self.visual_proj(text, local)
        return F.cosine_similarity(pooled, text.expand_as(pooled), dim=-1)

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return FLAIR's logits, exp(scale) cos(pool(t, L), t) + bias.

        image f[B, 3, S, S], text i64[T, 77] -> f[B, T] and its transpose f[T, B].
        """
        _, local = self.encode_image(image)
        scores = self.scores(local, self.encode_text(text))
        logits = self.towers.logit_scale.exp() * scores + self.towers.logit_bias
        return logits, logits.T

    def get_logits_as_clip(self, image: Tensor, text: Tensor, full_context: bool = False) -> tuple[Tensor, Tensor]:
        """Return CLIP's logits, exp(scale) cos(g, t), without the bias; shapes as in `get_logits`."""
        pooled, _ = self.encode_image(image)
        image_unit = F.normalize(pooled, dim=-1)
        text_unit = F.normalize(self.encode_text(text, full_context), dim=-1)
        logits = self.towers.logit_scale.exp() * image_unit @ text_unit.T
        return logits, logits.T

    # -- The folded pool, for re-ranking

    @property
    def folded_pool(self) -> FoldedPool:
        """The pool in folded form, float32 numpy, made from the current weights."""
        tensors = {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in self.flair_state().items()
            if name.startswith(("visual_proj.", "logit_"))
        }
        return FoldedPool(tensors, self.config.pool_heads, self.config.score)


def run_image_tower(visual: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `FLAIR.encode_image` of an OpenCLIP tower, with the attention written out.

    image f[B, 3, S, S] -> global tokens f[B, D], local tokens f[B, P, D].
    torch's MultiheadAttention copies its input for every projection; in bfloat16 on a CPU this costs a small tower
    40 % of its speed. The results equal it.
    """
    if isinstance(visual, ConvTower):
        pooled, patches = visual(image)
        return pooled, patches @ visual.proj
    x = visual._embeds(image)
    for block in visual.transformer.resblocks:
        attention, normed = block.attn, block.ln_1(x)
        packed = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + attention.out_proj(mixed)
        x = x + block.mlp(block.ln_2(x))
    tokens = visual.ln_post(x) @ visual.proj
    return tokens[:, 0], tokens[:, 1:]


def load_model(name: str | Path = checkpoints.BUNDLED, device: str = "cpu") -> FLAIR:
    """Load a model by name (`flair-small`, `flair-merged30m`, ...) or from a file (.safetensors or a published .pt).

    Raises WeightsError when the name is unknown, the file is missing or not a FLAIR checkpoint.
    """
    file = checkpoints.find(name)
    state, config_json, weights_hash = checkpoints.read(file.path)
    model = FLAIR(ModelConfig.from_json(config_json), file.name, weights_hash, checkpoints.seen_tokens(file.path))
    model.load_flair_state(state)
    return model.eval().requires_grad_(False).to(device)
