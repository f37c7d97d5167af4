"""Make the pages of the methods from the table that the code runs on.

    python docs/make_explain.py            writes docs/explain/NAME.md, one page per method

Nothing on these pages is written by hand: change `advect.methods.METHODS` and run this again. A test compares the
pages with what this script makes.
"""

from pathlib import Path

from advect.methods import METHODS, Method, Option, resolve_options
from advect.methods.row import NONE

HAND_WRITTEN = ("relations.md", "normalizing-flows.md", "diffusion.md")
LINE_LENGTH = 120
TIME = "t = 0 is the source (noise), t = 1 the data."
DIRECTION = "`encode` goes from data to source (noise), `decode` from source to data."
FAMILIES = {
    False: "How the families are related: [normalizing flows in one page](normalizing-flows.md).",
    True: "How they are related: [flow matching in one page](relations.md).",
}
PLACES = (
    (("nice", "realnvp", "glow", "nsf", "flowpp"), "2. Coupling layers", "coupling", "coupling_layers"),
    (("maf", "iaf", "nsf-ar", "umnn"), "3. Four ways to a cheap determinant", "four-ways", "jacobians"),
    (("planar", "radial", "sylvester"), "3. Four ways to a cheap determinant", "four-ways", "jacobians"),
    (("residual",), "4. Residual flows", "residual", "residual_to_ode"),
    (("cnf", "rnode", "ot-flow"), "6. Continuous normalizing flows", "cnf", "cnf_likelihood"),
    (("fm",), "7. Flow matching", "flow-matching", "marginal_field"),
    (("i-cfm", "rf", "ot-cfm", "sb-cfm", "sf2m"), "9. Which pairs", "pairs", "pairs"),
    (("ddpm", "vp", "subvp", "cosine", "ve", "edm"), "10. Diffusion", "diffusion", "one_path"),
)
"""Methods, the page of the line where their idea stands, and a figure of it. What is no flow has no place there."""
FOLDER = Path(__file__).resolve().parent / "explain"

NOTICE = "<!-- Made by docs/make_explain.py from advect.methods; edit the table, not this page. -->"


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {f"{method.name}.md": page(method) for method in METHODS.values()}


def page(method: Method) -> str:
    """The page of one method."""
    others = ", ".join(f"[{name}]({name}.md)" for name in METHODS if name != method.name)
    parts = [
        NOTICE,
        f"# `{method.name}`: {sentence_case(method.title)}",
        f"{TIME if method.recipe.has_ode else DIRECTION} `advect explain {method.name}` prints the same facts.",
        *place(method),
        table(
            ("part", "what it is"),
            [
                ("map", method.map),
                *([] if method.path == NONE else [("coupling q(x0, x1)", method.couples), ("path", math(method.path))]),
                ("objective", method.objective),
                ("minimised", math(method.equation)),
                ("paper", method.paper),
                ("cost of a step", method.cost),
            ],
        ),
        "## Where it starts and ends",
        *method.recipe.ends(resolve_options(method, {})),
        "## When not to use it",
        f"Avoid it when: {method.avoid}.",
        "## Options",
        "Give them as `--set NAME=VALUE`, or as keyword arguments of `advect.fit`.",
        table(
            ("option", "default", "meaning"),
            [(f"`{name}`", f"`{o.default!r}`", meaning(o)) for name, o in method.options.items()],
        ),
        "## Try it",
        f"```text\nadvect train {data_of(method)} --method {method.name} --steps 2000 --out runs/{method.name}\n```",
        "In Python, with far too few steps for a good model:",
        snippet(method),
        f"Other methods: {others}. {FAMILIES[method.path != NONE]} How to choose: [choose](../choose.md).",
    ]
    return "\n\n".join(parts) + "\n"


def place(method: Method) -> list[str]:
    """Where the idea of a method stands in the line, and a figure; nothing for what stands outside."""
    for names, title, page, figure in PLACES:
        if method.name in names:
            return [
                f"The idea, step by step: [{title}](../line/{page}.md).",
                f"[Figure: of this family](../figures/{figure}.py)",
            ]
    return []


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def math(text: str) -> str:
    """A formula as code, so that no sign in it is taken for markup."""
    return f"`{text}`"


def sentence_case(title: str) -> str:
    """The title after a colon: its first word small, unless it is a name."""
    first, _, rest = title.partition(" ")
    small = first if first.startswith("Schrödinger") else first.lower()
    return f"{small} {rest}" if rest else small


def meaning(option: Option) -> str:
    """What an option means, with its range where it is a number."""
    default, text = option.default, option.meaning
    if isinstance(default, bool) or not isinstance(default, int | float):
        return text
    bound = "above" if option.exclusive else "at least"
    return f"{text} {bound.capitalize()} {option.minimum:g}."


def data_of(method: Method) -> str:
    """A built-in data set that the method takes: pictures where it takes nothing else."""
    return "digits" if method.recipe.pictures_only else "moons"


def fit_call(*arguments: str) -> str:
    """The call of `advect.fit` as the formatter would lay it out: on one line where it fits."""
    given = [argument.replace("'", '"') for argument in arguments]
    line = f"model = advect.fit({', '.join(given)})"
    if len(line) <= LINE_LENGTH:
        return line
    return "\n".join(["model = advect.fit(", *(f"    {argument}," for argument in given), ")"])


_VERBS = {
    "exact": "model.sample(5), model.log_prob(X[:5])",
    "bound": "model.sample(5), model.log_prob(X[:5])  # the second is a lower bound",
    "none": "model.sample(5)",
}


def snippet(method: Method) -> str:
    """A small fit that names every option at its default."""
    options = [f"{name}={o.default!r}" for name, o in method.options.items()]
    if data_of(method) == "digits":
        return "\n".join(
            [
                "```python",
                "import advect",
                "",
                fit_call('"digits"', f'method="{method.name}"', "steps=5", "seed=0", *options),
                "model.sample(5)",
                "```",
            ]
        )
    return "\n".join(
        [
            "```python",
            "import numpy as np",
            "import advect",
            "",
            "X = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 3.0]",
            fit_call("X", f'method="{method.name}"', "steps=20", "seed=0", *options),
            _VERBS[method.recipe.likelihood],
            "```",
        ]
    )


def main() -> None:
    """Write the pages, and remove those of methods that are gone."""
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        if old.name not in made and old.name not in HAND_WRITTEN:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/explain/{name}")


if __name__ == "__main__":
    main()
