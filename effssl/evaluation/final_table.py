"""Probes of a run: on the validation split while it trains, and the table at its end."""

from __future__ import annotations

from typing import Any

from torch import nn

from effssl.data.stored import Data
from effssl.evaluation import protocols
from effssl.evaluation.encode import Features, finite, spread
from effssl.evaluation.probes import best_linear_probe, knn_accuracy
from effssl.evaluation.protocols import (
    Columns,
    Encoded,
    about_unlabelled,
    encode_splits,
    labelled_positions,
    measured_part,
    reported_split,
)
from effssl.evaluation.tables import at_ends

VIEWED_IMAGES, VIEWS = 500, 4  # of the measures of random views in a probe on the way


def validation_probe(
    features: Features,
    data: Data,
    max_images: int,
    projector: nn.Module,
    of_views: Features | None = None,
) -> Columns:
    """Judge a run on the validation split: kNN and linear accuracy in [0, 1].

    About `max_images` training images are fitted on, as encode_splits takes them. Beside these come
    the measures of the representations h and of the embeddings z = projector(h), of clean views
    (`features`) and of random ones (`of_views`) if they are given; a set without labels has these
    alone. All are of validation images; without any there are no columns.
    """
    columns = Columns()
    if len(data.val_positions) == 0:  # where every class has a single image
        return columns
    if len(labelled_positions(data)) == 0:
        val_h = finite(features("train", spread(data.val_positions, protocols.RANK_IMAGES)))
    else:
        encoded = encode_splits(features, data, max_images)
        columns, val_h = _accuracies(encoded), encoded.val_h
    if len(val_h) < 2:
        return columns
    columns |= protocols.measures(measured_part(val_h), projector)
    if of_views is None:
        return columns
    views_h = of_views("train", spread(data.val_positions, VIEWED_IMAGES))
    return columns | protocols.measures_of_views(views_h, projector)


def averaged_probe(features: Features, data: Data, max_images: int) -> Columns:
    """Judge averaged weights on the validation split as `validation_probe` does; without labels
    there are no columns."""
    if len(labelled_positions(data)) == 0:
        return {}
    accuracies = _accuracies(encode_splits(features, data, max_images))
    return {f"averaged/{name}": share for name, share in accuracies.items()}


def _accuracies(encoded: Encoded) -> Columns:
    """Judge the linear probe, with one penalty, and kNN on the validation split."""
    splits = encoded.train_h, encoded.train_y, encoded.val_h, encoded.val_y
    _, linear = best_linear_probe(*splits, encoded.classes, grid=(1e-3,))
    return {"linear": linear, "knn": knn_accuracy(*splits)}


def final_rows(
    rows: dict[str, Features], data: Data, *, max_images: int, few_labels: int, seed: int
) -> dict[str, Any]:
    """Make the final table of a run.

    For every row it has accuracies in [0, 1] of a linear probe on all labels, of one on
    `few_labels` labels a class (mean and standard deviation over draws from `seed`) and of kNN,
    with about `max_images` training images.

    The penalty of each probe is chosen on the validation split, or within the few labels; the test
    split is encoded once a row, after that, without images that have no label, which are counted. A
    set without a test split that has labels reports the validation split, and says so; one without
    labels reports no rows.
    """
    if len(labelled_positions(data)) == 0 or not rows:
        return {"split": None, "rows": {}}
    table: dict[str, Columns] = {}
    for row, features in rows.items():
        encoded = encode_splits(features, data, max_images)
        columns = protocols.linear(encoded, protocols.choose_linear(encoded))
        columns |= protocols.few_labels(encoded, few_labels, seed)
        columns |= protocols.knn(encoded)
        measures = protocols.measures(measured_part(encoded.reported()[0]), None)
        table[row] = columns | {"effective_rank": measures["h/effective_rank"]}
    final = {"split": reported_split(data), "few_labels": few_labels, "rows": table}
    unlabelled = about_unlabelled(data)
    return final | {"unlabelled": unlabelled} if unlabelled else final


def format_table(final: dict[str, Any]) -> str:
    """Return the final table as text."""
    if not final["rows"]:
        reason = "no labels to hold out, or --final-images 0"
        return f"no final probes ({reason}): metrics.jsonl has those on the way"
    few = f"linear, {final['few_labels']} labels a class"
    unlabelled = f" ({final['unlabelled']})" if "unlabelled" in final else ""
    lines = [
        f"accuracy on the {final['split']} split (%){unlabelled}",
        f"{'':<12} {'linear, all labels':>20} {few:>29} {'kNN':>8}",
    ]
    for row, shares in final["rows"].items():
        linear, knn = 100 * shares["linear"], 100 * shares["knn"]
        on_few = f"{100 * shares['few_labels']:.1f} +- {100 * shares['few_labels_std']:.1f}"
        lines.append(f"{row:<12} {linear:>20.1f} {on_few:>29} {knn:>8.1f}")
    return "\n".join([*lines, *at_ends(final["rows"])])
