"""Behaviours that nobody named: contexts that the model predicts well, grouped by what explains them.

Marks et al. 2024, section 5, after Michaud et al. 2023 ("The quantization model of neural scaling"): a context is a
prompt and the token that follows it; it is represented by active features, by their linear effects on the token's
log-probability, or by a random projection of the gradient of its loss; alike contexts are one behaviour.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.attribution import node_effects
from circuits.end_points import ToZero
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.metrics import LogProbability, measure
from saes.samples import TokenBatch

Representation = Literal["activations", "effects", "gradients"]
Positions = Literal["last", "all"]


@dataclass(frozen=True)
class Contexts:
    """Prompts with the token that follows: `examples` (field `answer`), its loss in nats, and where each is from."""

    examples: Examples
    loss: Float[np.ndarray, " contexts"]
    row: Int[np.ndarray, " contexts"]
    """which of the rows it was cut from"""

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, index: Int[np.ndarray, " chosen"]) -> "Contexts":
        """Some of the contexts."""
        return Contexts(self.examples.take(torch.from_numpy(index)), self.loss[index], self.row[index])


@torch.no_grad()
def predicted_contexts(
    model: PreTrainedModel,
    batches: Iterable[TokenBatch],
    *,
    count: int,
    max_loss: float,
    longest: int = 64,
    shortest: int = 1,
    per_row: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Contexts:
    """`count` contexts of `shortest` to `longest` tokens whose next token has a loss of at most `max_loss` nats.

    At most `per_row` from each row, drawn at random, so that no document is a behaviour of its own. ValueError if the
    rows hold none.
    """
    random = np.random.default_rng(seed)
    prompts: list[Tensor] = []
    found: list[tuple[int, int, float, int]] = []  # position, answer, loss, row
    first_row = 0
    with tqdm(total=count, desc="contexts", unit="context", disable=not progress) as bar:
        for batch in batches:
            tokens = batch.rows.tokens[:, : longest + 1]
            logits = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1]
            loss = -logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None].to(logits.device))[..., 0].cpu()
            inside = batch.keep[:, : tokens.shape[1] - 1] & batch.rows.mask[:, 1 : tokens.shape[1]]
            inside[:, : shortest - 1] = False
            well = inside & (loss <= max_loss)
            for row in well.any(1).nonzero().flatten().tolist():
                options = well[row].nonzero().flatten().numpy()
                for position in sorted(random.choice(options, min(per_row, len(options)), replace=False).tolist()):
                    prompts.append(tokens[row, : position + 1])
                    found.append(
                        (position, int(tokens[row, position + 1]), float(loss[row, position]), first_row + row)
                    )
                    bar.update()
            first_row += len(tokens)
            if len(found) >= count:
                break
    if not found:
        raise ValueError(f"no token of these rows has a loss of {max_loss} nats or less; allow a higher one")
    position, answer, losses, rows = (np.array(column) for column in zip(*found[:count], strict=True))
    clean = torch.nn.utils.rnn.pad_sequence(prompts[:count], batch_first=True)
    at = torch.from_numpy(position)
    return Contexts(Examples(clean, None, at, {"answer": torch.from_numpy(answer)}, lengths=at + 1), losses, rows)


def represent(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    contexts: Contexts,
    by: Representation,
    *,
    positions: Positions = "last",
    dimension: int = 30_000,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> sparse.csr_matrix:
    """One row for each context, of norm 1: features of all sites side by side, or projected gradients.

    `activations` and `effects` (activation times gradient of the token's log-probability, so the linear effect of
    zeroing, with its sign turned) are taken at the last position, or summed over all.
    """
    if by == "gradients":
        return normalised(projected_gradients(model, contexts, dimension, seed, progress=progress))
    parts = []
    for batch in tqdm(contexts.examples.batches(batch_size), desc=by, unit="batch", disable=not progress):
        ends = ToZero()(model, dictionaries, batch)
        nodes = node_effects(model, dictionaries, batch, LogProbability(), ends, method="attribution", slope="clean")
        columns = []
        for site, found in nodes.items():
            length = found.error.shape[1]
            example, position = (found.moves.row // length).cpu(), (found.moves.row % length).cpu()
            values = -(found.moves.change if by == "activations" else found.acts).cpu()  # zero less clean
            kept = position == batch.position[example] if positions == "last" else batch.mask()[example, position]
            shape = (len(batch), dictionaries[site].features)
            at = (example[kept].numpy(), found.moves.feature.cpu()[kept].numpy())
            columns.append(sparse.csr_matrix((values[kept].double().numpy(), at), shape))  # sums what is at one place
        parts.append(sparse.hstack(columns, format="csr"))
    return normalised(sparse.csr_matrix(sparse.vstack(parts)))


def projected_gradients(
    model: PreTrainedModel, contexts: Contexts, dimension: int, seed: int = 0, *, progress: bool = True
) -> Float[np.ndarray, "contexts dimension"]:
    """The gradient of each context's loss over all weight matrices, embeddings left out, in `dimension` random sums.

    Every weight is added, with a random sign, to one random dimension (Charikar et al. 2002, "Finding frequent items"):
    inner products are kept in expectation, and nothing of the size of all projections is stored.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(p) for module in ends if module is not None for p in module.parameters()}
    weights = [p for p in model.parameters() if p.dim() > 1 and id(p) not in embeddings]
    random = torch.Generator().manual_seed(seed)
    places = [torch.randint(dimension, (w.numel(),), generator=random).to(w.device) for w in weights]
    signs = [torch.randint(2, (w.numel(),), generator=random, dtype=torch.int8).to(w.device) for w in weights]
    before = [w.requires_grad for w in weights]
    rows = np.zeros((len(contexts), dimension), np.float32)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for i in tqdm(range(len(contexts)), desc="gradients", unit="context", disable=not progress):
            one = contexts.examples.take(torch.tensor([i]))
            with torch.enable_grad():
                loss = -measure(model, LogProbability(), one.clean[:, : int(one.ends)], one).sum()
            total = torch.zeros(dimension, device=loss.device)
            for gradient, place, sign in zip(torch.autograd.grad(loss, weights), places, signs, strict=True):
                total.index_add_(0, place, (gradient.flatten() * (2 * sign - 1)).float())
            rows[i] = total.cpu().numpy()
    finally:
        for weight, needed in zip(weights, before, strict=True):
            weight.requires_grad_(needed)
    return rows


def normalised(rows: sparse.csr_matrix | Float[np.ndarray, "n d"]) -> sparse.csr_matrix:
    """Rows of norm 1; a row of zeros stays one."""
    rows = sparse.csr_matrix(rows)
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(norms, 1e-30)) @ rows
