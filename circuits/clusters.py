"""Contexts that are explained by the same things: spectral or spherical k-means clusters, and how good they are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int
from scipy import sparse

How = Literal["spectral", "kmeans"]


class ClusterError(ValueError):
    """Contexts that cannot be clustered as asked."""


@dataclass(frozen=True)
class Clusters:
    """The cluster of every context, largest cluster first; `ranks` orders the contexts of a cluster, nearest first."""

    label: Int[np.ndarray, " contexts"]
    centrality: np.ndarray
    """cosine of each context to its cluster's mean"""

    def __len__(self) -> int:
        return int(self.label.max()) + 1

    def members(self, cluster: int) -> Int[np.ndarray, " members"]:
        """Contexts of a cluster, the most central first."""
        own = np.flatnonzero(self.label == cluster)
        return own[np.argsort(-self.centrality[own], kind="stable")]


def cluster(rows: sparse.csr_matrix, count: int, how: How = "spectral", seed: int = 0) -> Clusters:
    """`count` clusters of rows of norm 1.

    `spectral` works on angular similarity, 1 - acos(cosine) / pi, of all pairs: for some thousands of contexts.
    """
    sklearn = _sklearn()
    contexts = len(rows.indptr) - 1
    if not 2 <= count <= contexts:
        raise ClusterError(f"{count} clusters of {contexts} contexts: choose 2 to {contexts}")
    empty = int((np.diff(rows.indptr) == 0).sum())
    if empty:
        raise ClusterError(f"{empty} of {contexts} contexts have no active feature; take other dictionaries or sites")
    if how == "spectral":
        cosine = np.clip((rows @ rows.T).toarray(), -1, 1)
        affinity = 1 - np.arccos(cosine) / np.pi
        model = sklearn.SpectralClustering(count, affinity="precomputed", n_init=30, random_state=seed)
        label = model.fit_predict(affinity)
    else:
        label = sklearn.KMeans(count, random_state=seed).fit_predict(rows)
    sizes = np.bincount(label, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    label = np.argsort(order)[label]
    return Clusters(label, _centrality(rows, label))


def _centrality(rows: sparse.csr_matrix, label: Int[np.ndarray, " n"]) -> np.ndarray:
    found = np.zeros(len(label))
    for c in range(label.max() + 1):
        own = label == c
        mean = np.asarray(rows[own].mean(0)).ravel()
        found[own] = rows[own] @ (mean / max(np.linalg.norm(mean), 1e-30))
    return found


def agreement(found: Int[np.ndarray, " n"], truth: np.ndarray) -> float:
    """Adjusted mutual information of clusters and a known property: 1 if they are the same, 0 for chance."""
    return float(_sklearn().adjusted_mutual_info_score(truth, found))


class _Sklearn:
    """What is used of scikit-learn."""

    def __init__(self) -> None:
        from sklearn.cluster import KMeans, SpectralClustering
        from sklearn.metrics import adjusted_mutual_info_score

        self.KMeans, self.SpectralClustering = KMeans, SpectralClustering
        self.adjusted_mutual_info_score = adjusted_mutual_info_score


def _sklearn() -> _Sklearn:
    try:
        return _Sklearn()
    except ImportError:
        raise ClusterError("clusters need scikit-learn: pip install 'kibitz[clusters]'") from None
