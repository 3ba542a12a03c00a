from semid.pipeline.cells import shortened, without_empty_columns, written


def test_by_hand() -> None:
    assert written((443, 16, 63)) == "443-16-63"
    assert [shortened(title, 5) for title in (None, "", "12345", "123456")] == ["", "", "12345", "1234…"]
    rows = [("a", "b", "c"), ("1", "", "2"), ("", "", "3")]
    assert without_empty_columns(rows) == [("a", "c"), ("1", "2"), ("", "3")]
