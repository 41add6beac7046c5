"""What does each panel show, how is it read, and how is it computed? The text behind its ⓘ.

Markdown, with equations in LaTeX; equation and section numbers are those of "How Does Attention Work in Vision
Transformers? A Visual Analytics Attempt" (TVCG 2023). They say what is computed, where the paper leaves it open too.
"""

SOURCE = (
    "Eq., Sec. and Fig. are those of Li et al., *How Does Attention Work in Vision Transformers? A Visual Analytics "
    "Attempt*, IEEE TVCG 2023."
)

ABOUT = {
    "image-overview": r"""
A point an image. Near means that the heads matter alike for two images.

**Read it.** Only nearness means something: the axes have no unit. Colour is the class, P(target), right or wrong, or
the selected head's importance; a cross is a wrong prediction in any colour. The *target* is the true class, or the
predicted one where no label is known.

**Computed.** Image $x$ has the vector of its values over all $l \cdot n$ heads; for *Probability* these are the
probabilities that are left when a head is pruned (Sec. 5.1, 6.1):

$$
v(x) = \big(P_{i,j}[\mathrm{target}]\big)_{i=0 \dots l-1,\; j=0 \dots n-1}
$$

t-SNE lays the vectors out in the plane: perplexity 30 or less, started from the principal components, the same in
every run. Images with a number that is not finite have no place.

Computed in `precompute/layout.py` · arrays `image_layout`, `probability`, `target`
""",
    "image-card": r"""
The selected image as the model saw it, after resize and crop, with its true class and its most probable ones.

**Read it.** *P(target)* is what the model gives the true class, or the predicted one where no label is known. The
true class is bold. Without an image, everything is a mean over the image set.

**Computed.** The softmax of the model's output, nothing pruned:

$$
P(c) = \frac{e^{o_c}}{\sum_k e^{o_k}}
$$

Computed in `precompute/metrics.py`, `probabilities` · arrays `pixels`, `label`, `logits`, `probability`
""",
    "head-importance": r"""
What changes when one head is pruned: its attention matrix is set to 0 after the softmax, nothing is renormalised.

**Read it.** A point a head, layer by layer. With an image: its own values over the mean. Without: the mean over the
image set and one standard deviation (of the set itself, not estimated). *Probability* draws what is left of
P(target), so low means that the head matters (Sec. 5.2.4), and the map of layers and heads draws the drop. Of the
other metrics, high means that it matters. They disagree: later layers make up for a head, so it can change its own
layer much and the prediction little (Sec. 5.2.2).

**Computed**, of head $j$ in layer $i$, $P$ before and $P_{i,j}$ after:

$$
I^{\mathrm{prob}}_{i,j} = P[\mathrm{target}] - P_{i,j}[\mathrm{target}] \qquad \text{(Eq. 3)}
$$

$$
I^{\mathrm{JSD}}_{i,j} = \tfrac12 \sum_c P(c) \log_2 \frac{P(c)}{M(c)}
+ \tfrac12 \sum_c P_{i,j}(c) \log_2 \frac{P_{i,j}(c)}{M(c)} \qquad \text{(Eq. 4)}
$$

with $M = \tfrac12 (P + P_{i,j})$, in bits, 0 to 1: the divergence, not its root. With $z$ the layer's output after
$W_O$ and its bias, $z'$ the same with the head pruned, and $D_{\cos}(a, b) = 1 - \cos\angle(a, b)$, 0 to 2:

$$
I^{\mathrm{CLS}}_{i,j} = D_{\cos}(z[\mathrm{CLS}], z'[\mathrm{CLS}]) \qquad \text{(Eq. 5)}
$$

$$
I^{\mathrm{patch}}_{i,j} = \frac{1}{p^2} \sum_{q \,\in\, \mathrm{patches}} D_{\cos}(z[q], z'[q])
\qquad \text{(Eq. 6)}
$$

Computed in `precompute/importance.py`, `precompute/metrics.py` · arrays `importance`, `pruned_probability`
""",
    "pruning": r"""
What is left of a prediction when parts of the selected head, or several heads together, are switched off.

**Read it.** A head's attention matrix has four regions: CLS→CLS, CLS→patches, patches→CLS, patches→patches (Fig. 4A).
Under each bar stands the matrix, CLS first; what is hatched is 0. Beside the bars: the five most probable classes
before and after, the true one bold.

**Computed.** With $R$ the regions that are switched off, of every pruned head

$$
A'[q, k] = \begin{cases} 0 & (q, k) \in R \\ A[q, k] & \text{otherwise} \end{cases}
$$

after the softmax, nothing renormalised; the rest of the model runs as it is, and the metrics are those of *Head
importance* (Eq. 3 to 6). The paper's six modes (Fig. 4B), as its text needs them: nothing, the whole head,
patches→patches, CLS→CLS, both crossings, everything of CLS. Registers and distillation tokens go only with the whole
head.

Computed in `precompute/pruning.py`, when it is first looked at, and kept beside the study (`store/derived.py`)
""",
    "head-card": r"""
The selected head in numbers: on this image, over the image set, and its place among all heads.

**Read it.** *Entropy*: 0, all attention at one distance; 1, alike at all. *Pattern*: the shape of the attention, with
a score of 0 to 1, and on how many images the head has it; *mixed* is no one shape. *Content relevance*: 0, the same
attention on every image; 1, unrelated between images. *Object AUC*: the chance that a pixel of the object gets more
attention than one of the background; 0.5, it does not tell them apart.

**Computed.** Importance and entropy as in their panels. Content relevance, over all pairs of the $m$ images of the
study, $r$ being Pearson's correlation of the attention between patches:

$$
1 - \frac{2}{m (m - 1)} \sum_{x < y} r(A_x, A_y)
$$

Object AUC, with $a$ the mean attention that a patch receives from patches (*CLS object AUC*: from CLS):

$$
\Pr(a_{\mathrm{object}} > a_{\mathrm{background}}) + \tfrac12 \Pr(a_{\mathrm{object}} = a_{\mathrm{background}})
$$

The paper names patterns by eye (Fig. 13, Sec. 6.3.1); the scores, and these two numbers, are Headscope's own.

Computed in `precompute/pattern_names.py`, `precompute/content.py` · formulas of the patterns: `docs/patterns.md`
""",
    "attention-strength": r"""
How far a head's patches look: their attention by distance on the patch grid, and how evenly it is spread.

**Read it.** Above: a point a head, by layer; low entropy, it looks at one distance; high, at all alike. Below, left:
the selected head's strength at each hop, on this image and as the mean of the set. Right: its entropy over the images
of the set; the line is this image. Brush it to make an image set.

**Computed.** Hop $k$ of a patch are the patches at Chebyshev distance $k$: a square ring $N_k(q)$, clipped at the
border (Fig. 5). The mean over the ring comes first, then that over the $|Q_k|$ patches which have such a ring:

$$
s_k = \frac{1}{|Q_k|} \sum_{q \,\in\, Q_k} \frac{1}{|N_k(q)|} \sum_{r \,\in\, N_k(q)} A[q, r],
\qquad k = 0 \dots p - 1 \qquad \text{(Eq. 7, 8)}
$$

$A$ is as it is, not renormalised without CLS; on a grid that is no square, $p$ is its longer side. The entropy (Sec.
5.3.2) is scaled to 0 … 1:

$$
H = -\frac{1}{\ln p} \sum_k \hat s_k \ln \hat s_k, \qquad \hat s_k = \frac{s_k}{\sum_h s_h}
$$

Computed in `precompute/strength.py` · arrays `strength`, `entropy`
""",
    "pattern-map": r"""
A point a head on an image: all heads of all images, near where they attend alike.

**Read it.** Only nearness means something: the axes have no unit. One tight cluster of a head is a head that does the
same on every image; many places, one that follows the content (Sec. 6.3.1). Grey behind is how many heads are there;
it goes with the square root. The line under the title says how far the map is to be trusted.

**Computed.** *CLS*: t-SNE of the first 50 principal components of the attention from and to CLS (Sec. 5.4.1),

$$
A_{\mathrm{CLS}} = \big[A[\mathrm{CLS}, \mathrm{CLS}],\; A[\mathrm{CLS}, \mathrm{patches}],
\; A[\mathrm{patches}, \mathrm{CLS}]\big] \in \mathbb{R}^{2 p^2 + 1}
$$

*Patches*: of each matrix of attention between patches the strongest 1 % become 1 and the rest 0, exactly $\lceil
0.01\, p^4 \rceil$ ones; an autoencoder says each in 32 numbers, and t-SNE lays these out (Fig. 6C).

Computed in `precompute/patterns.py`, `precompute/autoencoder.py`, `precompute/reduction.py`, `precompute/layout.py` ·
arrays `patch_layout`, `cls_layout`
""",
    "head-attention": r"""
One head on one image: who looks at whom.

**Read it.** Blue is attention from or to CLS and other prefix tokens, orange attention between patches; darker is
more (on a dark page, lighter). Only the strongest are drawn: drag the line of the histogram. *Two axes*: sources
above, targets below, a line from each source to what it looks at. *Matrix*: rows look, columns are looked at, each
row sums to 1; the row and the column of CLS are widened. *Images*: under the source mask, bright where patches look
at the chosen token; under the target mask, bright where it looks. Hover a token for its attention, click to pin it.

**Computed.** With $q$, $k$ the head's queries and keys, of $d$ numbers each:

$$
A = \operatorname{softmax}\!\left(\frac{q k^{\top}}{\sqrt d}\right) \qquad \text{(Eq. 1)}
$$

stored as float16, or, where a study says *rebuilt*, computed again from the stored residual stream and weights. The
threshold of *top* $x$ % is the quantile $1 - x / 100$ of all values of this matrix (Sec. 5.4.2).

Computed in `precompute/model.py`, `store/rebuild.py` · arrays `attention`, or `residual` and the weights
""",
}
