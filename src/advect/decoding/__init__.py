"""Decoders that are not ours (Arrow, HDF5, pictures), each read in a process of its own, with limits.

A decoder written in C may crash or never end on a damaged file, and takes the process with it. So every file for one of
them is read by a child that has limits on time and memory, and what the child sends back is plain numbers and JSON,
checked like any other file. A child that dies is a refusal. The child never imports torch.
"""

from advect.decoding.answer import Answer
from advect.decoding.columns import Converted
from advect.decoding.guard import decoded

__all__ = ["Answer", "Converted", "decoded"]
