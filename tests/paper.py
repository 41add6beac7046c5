"""What stands where in the paper: its sections, equations and figures, and what each is about.

"How Does Attention Work in Vision Transformers? A Visual Analytics Attempt", TVCG 2023.
"""

SECTIONS = {
    "1": "Introduction",
    "2": "Related Work",
    "3": "Background",
    "4": "Requirements and Solution Overview",
    "5": "Methodology and Visualization System",
    "5.1": "The Image Overview",
    "5.2": "The Head Importance View",
    "5.2.1": "Importance to the Model's Output",
    "5.2.2": "Importance to the Attention Layer",
    "5.2.3": "Head Pruning Modes",
    "5.2.4": "Visualization (of importance)",
    "5.3": "The Attention Strength View",
    "5.3.1": "Attention Strength Over k-Hop Neighbors",
    "5.3.2": "Visualization (of strength; its entropy)",
    "5.4": "The Attention Pattern View",
    "5.4.1": "Unsupervised Pattern Identification",
    "5.4.2": "Visualization (of patterns)",
    "6": "Case Study and Experts' Feedback",
    "6.1": "Head Importance",
    "6.2": "Attention Strength",
    "6.3": "Attention Pattern",
    "6.3.1": "Attention Pattern Summary",
    "6.4": "Head Attention Diagnosis",
    "6.5": "Domain Experts' Feedback",
    "7": "Discussion, Limitations, and Future Work",
    "8": "Conclusion",
}

EQUATIONS = {
    1: "attention after the softmax, times the values",
    2: "output of the attention layer, z",
    3: "importance by the probability of the true class",
    4: "importance by the Jensen-Shannon divergence",
    5: "importance by the cosine distance of CLS",
    6: "importance by the cosine distance of the patches",
    7: "attention strength, mean over patches",
    8: "attention strength of one patch, by hop",
}

FIGURES = range(1, 17)

# Where the paper has what an array holds: the words of the schema.
SOURCES = {
    "softmax of Eq. 1": ["attention"],
    "Eq. 3": ["pruned_probability"],
    "Eq. 3, 4, 5, 6": ["importance"],
    "Eq. 7, 8": ["strength"],
    "Sec. 5.1": ["image_layout"],
    "Sec. 5.3.2": ["entropy"],
    # What the maps start from, the maps, and the autoencoder between.
    "Sec. 5.4.1": [
        *("cls_vector", "patch_mask", "cls_layout", "autoencoder", "patch_latent", "patch_layout"),
    ],
    "Fig. 13": ["pattern_score", "pattern_name"],  # the 13 patterns between patches
    # Patterns of CLS; heads that are content-agnostic and content-relevant.
    "Sec. 6.3.1": ["cls_pattern_score", "cls_pattern_name", "content_relevance"],
}
