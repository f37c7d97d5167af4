"""The file of annotated cells, of which only what is asked for is read; runs in the decoding process.

Layers, neighbour graphs and whatever else a file carries stay on the disk: they may be many times what is modelled. A
file that leads into other files (by external links, external storage or virtual data sets) is refused: it would bring
in what the user never named. So is a data set in more pieces than the file has bytes: HDF5 takes memory for each.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from math import prod
from typing import Any

from advect.errors import DataError


class Stored:
    """A matrix in the file: its shape, and the rest when asked for.

    Args:
        node: Its group or data set.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return tuple(self._node.shape if hasattr(self._node, "shape") else self._read.shape)

    def to_memory(self) -> Any:
        """An array, a sparse matrix or a frame."""
        return self._read

    @cached_property
    def _read(self) -> Any:
        return _reader()(self._node)


class StoredMatrices(Mapping[str, Stored]):
    """The matrices of one group, by name.

    Args:
        group: The group; None for nothing.
    """

    def __init__(self, group: Any) -> None:
        self._group = {} if group is None else group

    def __getitem__(self, key: str) -> Stored:
        return Stored(self._group[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)


class StoredCells:
    """What `cells.cells_of` and `loadings` ask of an AnnData, read from its file when they do.

    Args:
        file: The open file.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.obsm, self.varm = StoredMatrices(file.get("obsm")), StoredMatrices(file.get("varm"))
        self.X = Stored(file["X"]) if "X" in file else None

    @cached_property
    def obs(self) -> Any:
        """The frame of the cells."""
        return _reader()(self.file["obs"])

    @cached_property
    def var_names(self) -> Any:
        """Names of the genes."""
        return _reader()(self.file["var"]).index

    @property
    def n_vars(self) -> int:
        """How many genes."""
        return len(self.var_names)


def open_annotated(path: str) -> Any:
    """What is in a file: `StoredCells`, or of files older than anndata 0.8 an AnnData with ``X`` left on the disk.

    Raises:
        DataError: Damaged, or it leads into other files.
    """
    import anndata
    import h5py

    try:
        with ExitStack() as closing:
            file = closing.enter_context(h5py.File(path, "r"))
            _refuse_traps(file, path)
            if "encoding-type" in file.attrs:
                opened = StoredCells(file)
                closing.pop_all()
                return opened
        return anndata.read_h5ad(path, backed="r")
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"the file cannot be read: {error}",
            where=path,
            remedy="It is damaged, cut short or no .h5ad file; fetch or save it again.",
        ) from error


def _reader() -> Callable[[Any], Any]:
    """anndata's reader of one element, which moved."""
    try:
        from anndata.io import read_elem
    except ImportError:  # before 0.11
        from anndata.experimental import read_elem
    return read_elem


def _refuse_traps(file: Any, path: str) -> None:
    """Refuse ways into other files and impossible data sets; every group is visited once."""
    import h5py

    size = file.id.get_filesize()
    todo, seen = [file], set()
    while todo:
        group = todo.pop()
        number = h5py.h5o.get_info(group.id).addr
        if number in seen:
            continue
        seen.add(number)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _leads_out(f"{group.name}/{name}", path)
            if isinstance(link, h5py.SoftLink):
                continue  # it stays inside, and what it leads to is visited by its own name
            node = group[name]
            if isinstance(node, h5py.Group):
                todo.append(node)
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise _leads_out(node.name, path)
                _refuse_pieces(node, size, path)


def _refuse_pieces(node: Any, size: int, path: str) -> None:
    """A piece that is stored takes a byte at least."""
    if node.chunks is None:
        return
    pieces = prod(-(-length // chunk) for length, chunk in zip(node.shape, node.chunks, strict=True))
    if pieces > size:
        raise DataError(
            f"{node.name!r} claims {pieces} pieces, in a file of {size} bytes",
            where=path,
            remedy="It is damaged, or made to harm: fetch or save it again.",
        )


def _leads_out(name: str, path: str) -> DataError:
    return DataError(
        f"{name!r} leads into another file",
        where=path,
        remedy="Read it yourself if you know where it leads, and write a file that holds everything.",
    )
