from effssl.evaluation import tables

LINEAR = {"linear": 0.5, "linear_low": 0.41, "linear_high": 0.59}
ENDS = ("", "_low", "_high")
ROWS = {
    "trained": LINEAR | {"few_labels": 0.25, "few_labels_std": 0.015},
    "pixels": LINEAR | {"knn": 0.125},
}


def test_columns_that_no_row_has_are_left_out_and_missing_cells_are_marked():
    assert tables.accuracies(ROWS, 16, 10) == [
        ["", "linear", "kNN", "10 labels"],
        ["trained", "50.0 (41.0 to 59.0)", "-", "25.0 +- 1.5"],
        ["pixels", "50.0 (41.0 to 59.0)", "12.5", "-"],
    ]


def test_what_was_chosen_at_an_end_of_its_grid_has_a_star_and_a_line():
    trained = LINEAR | {"linear_at_end": True, "few_labels": 0.25, "few_labels_std": 0.015}
    trained |= {"few_labels_at_end": 2, "fine_tuned/0.01": 0.3, "fine_tuned/0.01_at_end": False}
    trained |= {"fine_tuned_within/0.01": 0.2, "fine_tuned_within/0.01_at_end": True}
    assert tables.accuracies({"trained": trained}, 16, 10) == [
        ["", "linear", "10 labels", "tuned 1%", "tuned 1%, chosen within"],
        ["trained", "50.0 (41.0 to 59.0)*", "25.0 +- 1.5*", "30.0", "20.0*"],
    ]
    said = tables.at_ends({"trained": trained})
    assert [line.split(":")[0] for line in said] == [
        "* trained, linear",
        "* trained, few_labels",
        "* trained, fine_tuned_within/0.01",
    ]


def test_averaged_views_are_named_for_what_they_are():
    both = {f"averaged/{kind}{end}": 0.5 for kind in ("authors", "crops") for end in ENDS}
    assert tables.accuracies({"trained": both}, 16, 10)[0] == ["", "authors' 16 views", "16 crops"]


def test_text_is_padded():
    assert tables.as_text([["", "a"], ["row", "12.5"]]) == "        a\nrow  12.5"


def test_markdown_escapes_bars():
    assert (
        tables.as_markdown([["", "a"], ["x|y", "1"]]) == "|  | a |\n| --- | --- |\n| x\\|y | 1 |\n"
    )


def test_csv_has_every_number_and_is_empty_where_there_is_none():
    assert (
        tables.as_csv({("run", "a"): {"x": 0.1}, ("run", "b"): {"y": 2.0}})
        == "run,row,x,y\nrun,a,0.1,\nrun,b,,2.0\n"
    )
