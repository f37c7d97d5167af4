"""Rows in and rows out: reading, checking, splitting, coding and writing tables, and the data sets that have a name."""

from advect.data.builtin import BUILTINS
from advect.data.check import check_table, refuse_unusable
from advect.data.codec import Codec
from advect.data.condition import ConditionCodec
from advect.data.containers import to_container
from advect.data.partial import PartialRows, read_partial
from advect.data.prepared import PreparedRows
from advect.data.read import read_like, read_table, split_key
from advect.data.schema import find_array, infer_schema, schema_from_dict, schema_to_dict
from advect.data.select import beside, joined, sample_rows, set_aside, some_rows, take_rows, with_condition
from advect.data.split import Split, split_rows, split_within
from advect.data.stored import blocks_of, on_disk
from advect.data.timeline import Timeline, read_timeline
from advect.data.write import write_table

__all__ = [
    "BUILTINS",
    "Codec",
    "ConditionCodec",
    "PartialRows",
    "PreparedRows",
    "Split",
    "Timeline",
    "beside",
    "blocks_of",
    "check_table",
    "find_array",
    "infer_schema",
    "joined",
    "on_disk",
    "read_like",
    "read_partial",
    "read_table",
    "read_timeline",
    "refuse_unusable",
    "sample_rows",
    "schema_from_dict",
    "schema_to_dict",
    "set_aside",
    "some_rows",
    "split_key",
    "split_rows",
    "split_within",
    "take_rows",
    "to_container",
    "with_condition",
    "write_table",
]
