"""Parquet files, through pyarrow; runs in the decoding process."""

from collections.abc import Mapping
from typing import Any

from advect.decoding.answer import AnswerWriter
from advect.decoding.arrow import packed_column
from advect.errors import DataError, missing_extra


def load() -> None:
    """Import what is needed, before the limits hold.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise missing_extra("pyarrow", "tables", "reading .parquet files") from None


def decode(path: str, request: Mapping[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """All columns of a file, by name.

    Raises:
        DataError: Damaged; or a column of dates, lists or mixed text.
    """
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            arrow = file.read()
    except (OSError, ValueError, LookupError, NotImplementedError) as error:  # bases of Arrow's errors
        raise DataError(
            f"the file cannot be read: {error}",
            where=path,
            remedy="It is damaged, cut short or no parquet file; fetch or save it again.",
        ) from error
    names = list(arrow.column_names)
    places = [f"{path}, column {name!r}" for name in names]
    columns = [answer.column(packed_column(arrow.column(j), place), place) for j, place in enumerate(places)]
    return {"names": names, "columns": columns}
