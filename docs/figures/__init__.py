"""The figures of the documentation, one file each, drawn by advect when the site is built.

A figure is a module with four things: ``ALT``, what it shows for those who do not see it; ``compute() -> found``,
which trains and measures with fixed seeds; ``draw(found, ink) -> Figure``, called once for light and once for dark
paper; and ``caption(found) -> str``, so that numbers in a caption are those that were just measured. `make.py` finds
and draws them all.
"""
