// The studio: follows the training, draws when a slider has come to rest, and asks the network when it is looked at.

const REST = 180; // milliseconds
const SOON = 1000;
const LATER = 4000;

function follow() {
  const section = document.querySelector("#training");
  const words = section.querySelector(".words"); // read out when it changes; seconds are not
  const tiles = section.querySelector(".tiles");
  const figure = section.querySelector(".curve");
  const curve = new Curve(section.querySelector("canvas"));
  let last = null;
  const redraw = () => last && (figure.hidden = !curve.update(last));
  new ResizeObserver(redraw).observe(section);

  const show = (state) => {
    last = state;
    if (words.textContent !== state.words) words.textContent = state.words;
    section.querySelector(".ago").textContent = state.ago;
    const bar = section.querySelector(".share");
    bar.hidden = state.state !== "started" || state.share === null;
    bar.value = state.share || 0;
    tiles.replaceChildren(
      ...state.tiles.map(([what, amount]) => {
        const [tile, name, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
        name.textContent = what;
        value.textContent = amount;
        tile.append(name, value);
        return tile;
      }),
    );
    for (const link of document.querySelectorAll(".report-link")) link.hidden = !state.report;
    figure.hidden = state.train.length < 2 && state.validation.length < 2;
    redraw();
  };

  const look = async () => {
    let wait = LATER;
    try {
      const response = await fetch("state");
      const state = await response.json();
      if (state.error) words.textContent = state.error;
      else {
        if (state.model !== document.body.dataset.model && (state.model || state.state === "started")) {
          location.reload();
          return;
        }
        show(state);
        if (state.state === "started" && !document.hidden) wait = SOON;
      }
    } catch {
      words.textContent = "The studio does not answer. It may have been closed.";
    }
    setTimeout(look, wait);
  };
  look();
}

function draw() {
  const section = document.querySelector("#draw");
  if (!section) return;
  const figure = section.querySelector("#rows-figure");
  const rows = new RowsFigure(figure);
  const asker = new Asker("draw");
  const network = document.querySelector("#network");
  const [says, viewAsker] = [new NetworkFigure(network), new Asker("views")];
  let asked = ""; // the law that the network figure shows
  let seen = false;

  const cost = (said) => {
    const parts = [`${said.rows} ${said.kind === "pictures" ? "pictures" : "rows"}`];
    if (said.nfe) parts.push(`${Number(said.nfe.toFixed(1))} evaluations of the network each`);
    parts.push(said.seconds < 1 ? `${Math.max(Math.round(1000 * said.seconds), 1)} ms` : `${said.seconds.toFixed(1)} s`);
    if (said.failed) parts.push(`${said.failed} have no value: the solver failed on them`);
    const outside = rows.outside;
    if (outside) parts.push(`${outside} outside of the frame`);
    if (said.real_rows) parts.push(`beside ${said.real_rows} held-out rows`);
    return `${[parts.join(", "), ...said.notes].join(". ").replace(/\.$/, "")}.`;
  };

  const lookAtNetwork = async () => {
    const law = JSON.stringify(knobs.law);
    if (!seen || law === asked) return;
    asked = law;
    says.figure.classList.add("waiting");
    try {
      const said = await viewAsker.ask(knobs.law);
      if (said === null) return;
      says.show(said);
    } catch (error) {
      asked = "";
      says.none(error.message);
    }
    says.figure.classList.remove("waiting");
  };

  const redraw = async () => {
    figure.classList.add("waiting");
    const trouble = figure.querySelector(".trouble");
    try {
      const said = await asker.ask(knobs.wish);
      if (said === null) return;
      trouble.textContent = "";
      rows.show(said);
      figure.querySelector(".said").textContent = cost(said);
      section.querySelector(".the-same code").textContent = said.command;
      if (said.preview) fillTable(section.querySelector(".as-rows table"), said.preview, said.rows);
      figure.dataset.drawn = JSON.stringify(knobs.wish);
    } catch (error) {
      trouble.textContent = error.message;
    }
    figure.classList.remove("waiting");
    lookAtNetwork();
  };
  const knobs = new Knobs(section, settled(redraw, REST));
  redraw();
  new IntersectionObserver(([entry]) => {
    seen ||= entry.isIntersecting;
    if (seen && figure.dataset.drawn) lookAtNetwork();
  }).observe(network);
}

document.documentElement.classList.add("scripted");
follow();
draw();
