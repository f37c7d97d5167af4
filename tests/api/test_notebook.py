"""What a notebook shows of a model and of a flow: true, short, and harmless whatever the data are called."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

import advect
from advect.flows import Flow, Uniform
from advect.flows.notebook import html_table
from advect.transforms import Compose

QUICK = {"steps": 20, "batch_size": 32, "network": "residual-1x8"}
EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """The words of each cell by the name of its line, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: dict[str, str] = {}
        self.tags: list[str] = []
        self.open: list[str] = []
        self._name = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style", "scope"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "th" in self.open:
            self._name = data
        elif "td" in self.open:
            self.lines[self._name] = self.lines.get(self._name, "") + data


def test_the_table_of_a_model_says_what_it_is():
    model = advect.fit("moons", method="ot-cfm", evaluate=True, **QUICK)
    text = model._repr_html_()
    lines = Reader(text).lines
    like = model.evaluation["likelihood"]
    count = sum(p.numel() for p in model.flow.parameters())
    plain = {name: words.replace("\N{NARROW NO-BREAK SPACE}", "") for name, words in lines.items()}
    assert "Model · ot-cfm" in text
    assert "10000 rows of moons" in plain["data"]
    assert plain["parameters"] == str(count)
    assert plain["network"] == "residual-1x8"
    assert plain["training"].startswith("20 steps of 32 rows")
    assert f"{like['rows']} rows" in plain["held out"]
    assert f"{like['mean']:.2f}".replace("-", "−")[:4] in plain["held out"]
    assert "±" in plain["held out"]
    assert "plot_velocity()" in plain["next"]


def test_names_from_data_are_escaped():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({EVIL: random.normal(size=100), "b": random.normal(size=100), "<i>&": ["<u>", "v"] * 50})
    model = advect.fit(frame, condition="<i>&", method="i-cfm", **QUICK)
    for text in (model._repr_html_(), model.flow._repr_html_()):
        found = Reader(text)
        assert set(found.tags) <= {"div", "strong", "br", "table", "tr", "th", "td", "code"}
        assert "http" not in text
        assert "src=" not in text
    lines = Reader(model._repr_html_()).lines
    assert EVIL in lines["columns"]
    assert lines["condition"] == "<i>&"


def test_a_table_escapes_all_of_its_parts():
    text = html_table(EVIL, EVIL, [(EVIL, EVIL)], [EVIL])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 5


@pytest.mark.parametrize("method", ["i-cfm", "realnvp", "gan", "vae"])
def test_what_may_be_called_is_there(method):
    model = advect.fit("moons", method=method, steps=5, batch_size=32)
    for thing in (model, model.flow):
        for call in Reader(thing._repr_html_()).lines["next"].split(") "):
            assert callable(getattr(thing, call.split("(")[0]))
    calls = Reader(model._repr_html_()).lines["next"]
    assert ("plot_density()" in calls) == (method in ("i-cfm", "realnvp"))
    assert ("plot_velocity()" in calls) == (method == "i-cfm")
    assert ("log_prob" in calls) == (method != "gan")


def test_a_model_of_a_log_density_says_so():
    model = advect.fit(target=lambda x: -(x**2).sum(1) / 2, event_shape=(2,), steps=5)
    lines = Reader(model._repr_html_()).lines
    assert "log-density" in lines["data"]
    assert "effective sample size" in lines["log Z"]


def test_plain_repr_stays_short():
    model = advect.fit("moons", method="i-cfm", **QUICK)
    assert repr(model) == "Model(i-cfm, 2 columns, 10000 rows of moons)"


def test_flows_of_ones_own_have_a_table():
    cube = Flow(Uniform(torch.zeros(3), torch.ones(3)), Compose())
    lines = Reader(cube._repr_html_()).lines
    assert lines["rows"] == "shape (3,)"
    assert lines["base"] == "Uniform"
    assert lines["map"] == "identity"
    assert lines["next"].split(" ") == ["sample(n)", "log_prob(x)", "encode(x)", "decode(z)"]
