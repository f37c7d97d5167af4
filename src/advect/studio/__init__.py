"""The studio: the page of a run, live, for the person at this machine and for nobody else.

`open_studio` binds a port on the loopback address and makes the link; `Studio.serve` answers until it is told to stop.
It follows a training by reading its folder, draws rows as sliders say, and shows what the network says in its several
words. It writes nothing anywhere. The web server is imported when it is used: the extra ``web``.
"""

from advect.studio.serve import Studio, open_studio

__all__ = ["Studio", "open_studio"]
