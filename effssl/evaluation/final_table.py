"""Probes of a run: on the validation split while it trains, and the table at its end on the test split."""

from __future__ import annotations

from typing import Any

from torch import nn

from effssl.data.stored import Data
from effssl.evaluation import protocols
from effssl.evaluation.encode import Features, spread
from effssl.evaluation.probes import best_linear_probe, knn_accuracy
from effssl.evaluation.protocols import Columns, encode_splits, labelled_positions, measured_part, reported_split


def validation_probe(features: Features, data: Data, max_images: int, projector: nn.Module) -> Columns:
    """kNN and linear accuracy in [0, 1] on the validation split, from at most `max_images` training images; effective
    rank and off-diagonal energy of the representations h and of the embeddings z = projector(h). Without labels: these
    measures alone."""
    if len(labelled_positions(data)) == 0:
        some = spread(data.train_positions, protocols.RANK_IMAGES)
        return protocols.measures(features("train", some), projector)
    encoded = encode_splits(features, data, max_images)
    splits = encoded.train_h, encoded.train_y, encoded.val_h, encoded.val_y
    _, linear = best_linear_probe(*splits, encoded.classes, grid=(1e-3,))
    probed = {"linear": linear, "knn": knn_accuracy(*splits)}
    return probed | protocols.measures(measured_part(encoded.val_h), projector)


def final_rows(rows: dict[str, Features], data: Data, *, max_images: int, few_labels: int, seed: int) -> dict[str, Any]:
    """The final table: for every row, accuracies in [0, 1] of a linear probe on all labels, on `few_labels` labels a
    class (mean and standard deviation over seeded draws) and of kNN.

    The penalty of each probe is chosen on the validation split; the test split is encoded once per row, after that. A
    set without a test split reports the validation split, and says so; one without labels reports no rows.
    """
    if len(labelled_positions(data)) == 0 or not rows:
        return {"split": None, "rows": {}}
    table: dict[str, Columns] = {}
    for row, features in rows.items():
        encoded = encode_splits(features, data, max_images)
        table[row] = (
            protocols.linear(encoded, protocols.choose_linear(encoded))
            | protocols.few_labels(encoded, few_labels, seed)
            | protocols.knn(encoded)
            | {"effective_rank": protocols.measures(measured_part(encoded.reported()[0]), None)["h/effective_rank"]}
        )
    return {"split": reported_split(data), "few_labels": few_labels, "rows": table}


def format_table(final: dict[str, Any]) -> str:
    """The final table as text."""
    if not final["rows"]:
        return "no final probes (no labels to hold out, or --final-images 0): metrics.jsonl has those on the way"
    few = f"linear, {final['few_labels']} labels a class"
    lines = [f"accuracy on the {final['split']} split (%)", f"{'':<12} {'linear, all labels':>20} {few:>29} {'kNN':>8}"]
    for row, a in final["rows"].items():
        spread = f"{100 * a['few_labels']:.1f} +- {100 * a['few_labels_std']:.1f}"
        lines.append(f"{row:<12} {100 * a['linear']:>20.1f} {spread:>29} {100 * a['knn']:>8.1f}")
    return "\n".join(lines)
