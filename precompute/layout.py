"""Which images are alike in what their heads do? Two-dimensional layouts of importance vectors."""

import numpy as np
from openTSNE import TSNE
from sklearn.decomposition import PCA

# van der Maaten's usual value; fewer images take a third of their number, which is the most that t-SNE allows.
PERPLEXITY = 30.0
# Below this, neighbourhoods mean nothing and the first two principal axes say more.
FEWEST_FOR_TSNE = 12


def layout(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, object]]:
    """t-SNE layout of vectors (item, dimension) → (item, xy) float32, and how it was made.

    Items with a NaN or Inf get NaN and move nobody. Exact neighbours, PCA start and the seed make it the same in every
    run, whatever the number of threads (openTSNE 1.0). Fewer than 12 items are laid out by PCA.
    """
    finite = np.isfinite(vectors).all(axis=1)
    placed = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    known = vectors[finite].astype(np.float64)
    if len(known) < 2 or not known.std(axis=0).any():
        placed[finite] = 0
        return placed, {"method": "none", "reason": "fewer than two different vectors"}
    if len(known) < FEWEST_FOR_TSNE:
        placed[finite] = _axes(known)
        return placed, {"method": "pca"}
    perplexity = min(PERPLEXITY, (len(known) - 1) / 3)
    # The plane of the exact start is scaled by openTSNE itself; neighbours beyond 1,000 items are found by annoy.
    neighbours = "exact" if len(known) <= 1000 else "annoy"
    tsne = TSNE(
        perplexity=perplexity, initialization="pca", neighbors=neighbours, metric="euclidean", random_state=seed
    )
    embedding = tsne.fit(known)
    placed[finite] = np.asarray(embedding)
    return placed, {
        "method": "t-SNE (openTSNE)",
        "perplexity": perplexity,
        "neighbours": neighbours,
        "metric": "euclidean",
        "kl_divergence": float(embedding.kl_divergence),
        "seed": seed,
    }


def _axes(vectors: np.ndarray) -> np.ndarray:
    """Scores on the first two principal axes, (item, xy); the second is 0 where there is none."""
    count = min(2, *vectors.shape)
    scores = PCA(n_components=count, svd_solver="full").fit_transform(vectors)
    return np.pad(scores, ((0, 0), (0, 2 - count)))
