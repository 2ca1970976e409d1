"""An evaluation in the JSON layout of SAEBench's core evaluation (eval_type_id "core"), for its readers and plots.

Names and nesting follow `sae_bench/evals/core` of github.com/adamkarvonen/SAEBench as stored at commit 10e0728; not
confirmed by running SAEBench, of which only parts of the sources were at hand. Where a number is defined otherwise
there, ours stands here, and docs/evaluation.md lists the differences. What is undefined is -1, as there.
"""

import time
import uuid
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures import AffineDictionary
from saes.densities import NearestRows, nearest_rows
from saes.evaluation import Evaluation


def core_result(
    dictionary: AffineDictionary,
    evaluation: Evaluation,
    *,
    name: str,
    release: str,
    model: str,
    corpus: str,
    context: int,
    batch_rows: int,
    drop_bos: bool,
    model_dtype: str,
    decoder: NearestRows | None = None,
) -> dict[str, Any]:
    """What SAEBench would write to `{release}_{name}_eval_results.json`, as plain JSON.

    `decoder`: nearest_rows(dictionary.W_dec), where it is known already.
    """
    q, counts = evaluation.quality, evaluation.features
    decoder = nearest_rows(dictionary.W_dec) if decoder is None else decoder
    encoder = nearest_rows(dictionary.W_enc)
    frequency = counts.frequency
    batches = -(-q.rows // batch_rows)
    metrics = {
        "model_behavior_preservation": {
            "kl_div_score": (q.kl_zero - q.kl) / q.kl_zero if q.kl_zero else -1,
            "kl_div_with_ablation": q.kl_zero,
            "kl_div_with_sae": q.kl,
        },
        "model_performance_preservation": {
            "ce_loss_score": q.loss_recovered,
            "ce_loss_with_ablation": q.loss_zero,
            "ce_loss_with_sae": q.loss_reconstructed,
            "ce_loss_without_sae": q.loss_original,
        },
        "reconstruction_quality": {"explained_variance": q.variance_explained, "mse": q.mse, "cossim": q.cosine},
        "shrinkage": {
            "l2_norm_in": q.norm_in,
            "l2_norm_out": q.norm_out,
            "l2_ratio": q.norm_ratio,
            "relative_reconstruction_bias": q.reconstruction_bias,
        },
        "sparsity": {"l0": q.l0, "l1": q.l1},
        "token_stats": {
            "total_tokens_eval_reconstruction": q.tokens,
            "total_tokens_eval_sparsity_variance": q.tokens,
        },
        "misc_metrics": {
            "average_max_encoder_cosine_sim": float(encoder.signed.mean()),
            "average_max_decoder_cosine_sim": float(decoder.signed.mean()),
            "frac_alive": counts.alive,
            "freq_over_1_percent": counts.share_above(0.01),
            "freq_over_10_percent": counts.share_above(0.1),
            "normalized_freq_over_1_percent": _share_of_firing(frequency, 0.01),
            "normalized_freq_over_10_percent": _share_of_firing(frequency, 0.1),
        },
    }
    per_feature = {
        "feature_density": frequency,
        "consistent_activation_heuristic": counts.fires / counts.rows,
        "encoder_bias": _encoder_bias(dictionary),
        "encoder_norm": dictionary.W_enc.norm(dim=1),
        "encoder_decoder_cosine_sim": _cosine(dictionary),
        "max_decoder_cosine_sim": decoder.signed,
        "max_encoder_cosine_sim": encoder.signed,
    }
    columns = {key: [round(v, 10) for v in numbers.double().cpu().tolist()] for key, numbers in per_feature.items()}
    return _defined(
        {
            "eval_type_id": "core",
            "eval_config": {
                "model_name": model,
                "llm_dtype": model_dtype,
                "batch_size_prompts": batch_rows,
                "n_eval_reconstruction_batches": batches,
                "n_eval_sparsity_variance_batches": batches,
                "exclude_special_tokens_from_reconstruction": drop_bos,
                "dataset": corpus,
                "context_size": context,
                "compute_kl": True,
                "compute_ce_loss": True,
                "compute_l2_norms": True,
                "compute_sparsity_metrics": True,
                "compute_variance_metrics": True,
                "compute_featurewise_density_statistics": True,
                "compute_featurewise_weight_based_metrics": True,
            },
            "eval_id": str(uuid.uuid4()),
            "datetime_epoch_millis": int(time.time() * 1000),
            "eval_result_metrics": metrics,
            "eval_result_details": [
                {"index": i, **dict(zip(columns, numbers, strict=True))}
                for i, numbers in enumerate(zip(*columns.values(), strict=True))
            ],
            "sae_bench_commit_hash": "none: made by kibitz",
            "sae_lens_id": name,
            "sae_lens_release_id": release,
            "sae_lens_version": None,
            "sae_cfg_dict": {"architecture": dictionary.architecture, **asdict(dictionary.config)},
            "eval_result_unstructured": {},
        }
    )


def _share_of_firing(frequency: Float[Tensor, " f"], above: float) -> float:
    """How much of all firing is that of features above a frequency; 0 where nothing fires."""
    return float(frequency[frequency > above].sum() / frequency.sum()) if bool(frequency.any()) else 0.0


def _encoder_bias(dictionary: AffineDictionary) -> Float[Tensor, " f"]:
    """b_enc; of a gated dictionary b_mag, as in SAEBench."""
    bias = dictionary.b_enc if dictionary.b_enc is not None else getattr(dictionary, "b_mag", None)
    return torch.zeros(dictionary.features) if bias is None else bias


def _cosine(dictionary: AffineDictionary) -> Float[Tensor, " f"]:
    """Of encoder and decoder rows; undefined where they are of different widths."""
    if dictionary.W_enc.shape != dictionary.W_dec.shape:
        return torch.full((dictionary.features,), torch.nan)
    return torch.cosine_similarity(dictionary.W_enc, dictionary.W_dec, dim=1)


def _defined(value: Any) -> Any:
    """-1 in place of NaN and infinity, as SAEBench writes them."""
    if isinstance(value, dict):
        return {name: _defined(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return -1 if isinstance(value, float) and not abs(value) < float("inf") else value
