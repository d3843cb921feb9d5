from effssl.evaluation import tables

LINEAR = {"linear": 0.5, "linear_low": 0.41, "linear_high": 0.59}
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
