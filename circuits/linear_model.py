"""The affine model around transcoders (Ameisen et al. 2025, "Circuit Tracing", section 3): what reaches what, linearly.

At one prompt attention patterns and the scales of norms are held (circuits/frozen.py), and each MLP's output is given.
What is left is affine in what is given: the embeddings and the MLP outputs, here called sources. What transcoders read,
and what the output head reads, are its values; skip terms of transcoders are a part of the map.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.frozen import GraphError, Recording, Replaying
from circuits.transcoder_parts import Part, part_of, site_in, transcoders_by_block, without_transcoder
from saes.dictionary import Dictionary
from saes.families import blocks, find_site
from saes.sites import Site, capture, intervene


class LinearModel:
    """One prompt of `length` tokens. Columns of what `effects` returns: all active features by block, position and
    number; then errors by block and position; then token embeddings, learned positions included, by position."""

    def __init__(self, model: PreTrainedModel, transcoders: Mapping[Site, Dictionary], tokens: Int[Tensor, "..."]):
        self.model, self.tokens = model, _checked(model, tokens)
        self.head, self.unembedding = _head(model)
        self._embed = find_site(model, "embed")
        mlps = [block.mlp for block in blocks(model)]
        keys = transcoders_by_block(model, transcoders)
        reads = {i: site_in(model, transcoders[key].reads[0]) for i, key in keys.items()}
        self._record: list[Tensor] = []
        sites = [self._embed, *mlps, *reads.values(), self.head]
        with torch.no_grad(), Recording(self._record), capture(model, sites, stop_after=False) as values:
            self.logits: Float[Tensor, " v"] = model(input_ids=self.tokens[None], use_cache=False).logits[0, -1]
        order = list(values)
        for i, site in reads.items():
            if site not in values or order.index(site) >= order.index(mlps[i]):
                raise GraphError(
                    f"the transcoder of {mlps[i]} reads {site}, which is not there before that MLP has run"
                )
        self.embedding: Float[Tensor, "length d"] = values[self._embed][0]
        self.parts: list[Part] = [
            part_of(transcoders[keys[i]], reads[i], mlp, values[reads[i]][0], values[mlp][0])
            if i in keys
            else without_transcoder(mlp, values[mlp][0])
            for i, mlp in enumerate(mlps)
        ]
        self.at_prompt = {site: values[site][0] for site in {*reads.values(), self.head}}
        self.bias: dict[Site, Float[Tensor, "length _"]] = self._checked_bias()
        self._graph: tuple[dict[Site, Tensor], dict[Site, Tensor]] | None = None

    @property
    def sources(self) -> dict[Site, Float[Tensor, "length d"]]:
        """What is given at the prompt: the embeddings, and of each MLP all but the skip term."""
        return {self._embed: self.embedding, **{part.writes: part.written for part in self.parts}}

    def run(
        self, sources: Mapping[Site, Float[Tensor, "batch length d"]]
    ) -> dict[Site, Float[Tensor, "batch length _"]]:
        """What transcoders and head read when the sources are as given; one of each site, all with one batch size."""
        batch = len(sources[self._embed])
        values: dict[Site, Tensor]

        def given(source: Tensor, part: Part | None):
            skip, reads = (None, None) if part is None else (part.skip, part.reads)
            return lambda _: source if skip is None or reads is None else source + values[reads] @ skip

        edits = {self._embed: given(sources[self._embed], None)}
        edits |= {part.writes: given(sources[part.writes], part) for part in self.parts}
        reading = capture(self.model, self.at_prompt, stop_after=False)
        with Replaying(self._record), intervene(self.model, edits), reading as values:
            self.model(input_ids=self.tokens.expand(batch, -1), use_cache=False)
        return values

    def effects(
        self, site: Site, vectors: Float[Tensor, "targets d"], positions: Int[Tensor, " targets"]
    ) -> Float[Tensor, "targets columns"]:
        """What each source adds to the product of a vector with the tensor at `site` and a position.

        Memory: one gradient [targets, length, D] of each source.
        """
        if self._graph is None:
            leaves = {s: x[None].clone().requires_grad_() for s, x in self.sources.items()}
            with torch.enable_grad():
                self._graph = leaves, self.run(leaves)
        leaves, values = self._graph
        rows = vectors.new_zeros(len(vectors), *values[site].shape)
        rows[torch.arange(len(vectors), device=rows.device), 0, positions] = vectors
        gradients = torch.autograd.grad(
            values[site], list(leaves.values()), rows, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        embedding, *mlps = (None if g is None else g[:, 0] for g in gradients)  # None: not upstream of the site
        pairs, count = list(zip(mlps, self.parts, strict=True)), len(vectors)
        return torch.cat(
            [
                *(_of_features(g, part, count) for g, part in pairs),
                *(_at_each(g, part.error, count) for g, part in pairs),
                _at_each(embedding, self.embedding, count),
            ],
            1,
        )

    @torch.no_grad()
    def _checked_bias(self) -> dict[Site, Tensor]:
        """The values when all sources but the decoders' biases are zero; GraphError if the frozen model is not affine.

        It has to come to the prompt's own values at the prompt's sources, and half way at half the sources.
        """
        sources = {}
        for site, full in self.sources.items():
            part = next((p for p in self.parts if p.writes == site), None)
            none = torch.zeros_like(full) if part is None else part.bias.expand_as(full)
            sources[site] = torch.stack([none, full, (none + full) / 2])
        values = self.run(sources)
        for site, (none, full, half) in values.items():
            gap = torch.stack([full - self.at_prompt[site], half - (none + full) / 2]).abs().max()
            if not gap <= full.abs().max() * torch.finfo(full.dtype).eps ** 0.5:
                raise GraphError(
                    f"{type(self.model).__name__} is not linear at {site} with patterns and norms held (off by "
                    f"{float(gap):.2g} of {float(full.abs().max()):.2g}); load it with attn_implementation='sdpa' or "
                    "'eager' and without compilation, and let transcoders read between residual stream and MLP"
                )
        return {site: value[0] for site, value in values.items()}


def _of_features(gradient: Tensor | None, part: Part, targets: int) -> Float[Tensor, "targets n"]:
    """Products of gradients [targets, length, D] with what the features write, each at its position."""
    if gradient is None:
        return _wide(part.acts).new_zeros(targets, len(part.acts))
    by_position = zip(gradient.unbind(1), part.decoders.split(part.counts), strict=True)
    return torch.cat([_wide(g) @ _wide(rows).T for g, rows in by_position], 1)


def _at_each(gradient: Tensor | None, x: Float[Tensor, "length d"], targets: int) -> Float[Tensor, "targets length"]:
    if gradient is None:
        return _wide(x).new_zeros(targets, len(x))
    return torch.einsum("kld,ld->kl", _wide(gradient), _wide(x))


def _wide(x: Tensor) -> Tensor:
    """At least float32, so that products of half-precision models are not rounded again."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _checked(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    if tokens.dim() != 1 or len(tokens) == 0 or tokens.is_floating_point():
        raise GraphError(
            f"the prompt has shape {list(tokens.shape)} and dtype {tokens.dtype}: give one row of at least one token id"
        )
    vocabulary = int(model.config.get_text_config().vocab_size)
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise GraphError(
            f"token ids go from {int(tokens.min())} to {int(tokens.max())}; the model has 0 to {vocabulary - 1}"
        )
    if model.training:
        raise GraphError("the model is in training mode, in which dropout is random: call model.eval()")
    return tokens.to(model.device)


def _head(model: PreTrainedModel) -> tuple[Site, nn.Linear]:
    """What the output head reads, behind the last norm, and the head."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise GraphError(f"{type(model).__name__} has no linear output head: its logits are no targets")
    path = next(name for name, module in model.named_modules() if module is head)
    return Site("head", path, "in"), head
