"""Tables made by hand for the tests of the data room."""

import numpy as np

from advect.records import Table


def make_table(columns, *, container="csv", dtypes=None, **rest):
    """A table from name → array or list; lists of text become object arrays."""
    arrays = {}
    for name, values in columns.items():
        if not isinstance(values, np.ndarray):
            text = any(isinstance(v, str) or v is None for v in values)
            array = np.empty(len(values), dtype=object) if text else None
            if array is None:
                array = np.array(values)
            else:
                array[:] = values
            values = array
        arrays[name] = values
    words = {n: "str" if a.dtype.kind == "O" else str(a.dtype) for n, a in arrays.items()} | (dtypes or {})
    return Table(
        names=tuple(arrays),
        columns=tuple(arrays.values()),
        container=container,
        event_shape=rest.pop("event_shape", (len(arrays),)),
        dtypes=tuple(words[n] for n in arrays),
        **rest,
    )


def image_table(pixels, **rest):
    """A table of pictures from ``(rows, channels, height, width)``."""
    flat = pixels.reshape(len(pixels), -1)
    return Table(
        names=tuple(f"x{i}" for i in range(flat.shape[1])),
        columns=tuple(flat.T),
        container="npz",
        event_shape=pixels.shape[1:],
        dtypes=(str(pixels.dtype),) * flat.shape[1],
        image=True,
        **rest,
    )


def assert_same(table, other):
    """Equal names, dtypes and values, gaps at the same places."""
    assert table.names == other.names
    assert table.dtypes == other.dtypes
    for name, a, b in zip(table.names, table.columns, other.columns, strict=True):
        assert a.dtype == b.dtype, name
        if a.dtype == object:
            assert a.tolist() == b.tolist(), name
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def mixed_table(rows=200, seed=0):
    """Every kind of column, some with gaps."""
    random = np.random.Generator(np.random.PCG64(seed))
    kinds = random.choice(["red", "green", "blue"], rows).astype(object)
    kinds[::7] = None
    answers = np.empty(rows, dtype=object)
    answers[:] = [bool(v) for v in random.integers(0, 2, rows)]
    answers[3] = None
    gappy = random.standard_normal(rows)
    gappy[::5] = np.nan
    counts = random.integers(0, 9, rows).astype(np.float64)
    counts[1] = np.nan
    return make_table(
        {
            "height": random.standard_normal(rows).astype(np.float32),
            "income": random.lognormal(9, 1.5, rows),
            "gappy": gappy,
            "age": random.integers(1, 90, rows).astype(np.int16),
            "rooms": random.integers(2, 40_000, rows).astype(np.float64),
            "code": random.choice([10, 500, 90_000], rows),
            "counts": counts,
            "same": np.full(rows, 7, dtype=np.int8),
            "colour": kinds,
            "flag": random.integers(0, 2, rows).astype(bool),
            "answer": answers,
            "one": np.full(rows, "x", dtype=object),
        },
        dtypes={"answer": "boolean"},
    )
