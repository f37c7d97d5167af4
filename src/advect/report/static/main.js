// Brings the figures of this page to life. Without a script the still pictures say the same.

function alive(figure) {
  const data = JSON.parse(figure.dataset.motion);
  figure.hidden = false;
  if (data.kind === "pictures") livePictures(figure, data);
  else livePoints(figure, data);
}

function livePictures(figure, data) {
  const grid = new PictureGrid(figure.querySelector("canvas"), data);
  new Player(figure, (place) => grid.draw(place), (place) => data.captions[Math.round(place)]);
}

function livePoints(figure, data) {
  if (data.real) data.real = coordinatesOf(data.real, data.low, data.high);
  const canvases = [...figure.querySelectorAll("canvas")];
  const small = canvases.length > 1;
  const plots = data.panels.map((panel, k) => {
    panel.frames = panel.captions.length;
    panel.states = coordinatesOf(panel.states, data.low, data.high);
    return new Plot(canvases[k], data, panel, small);
  });
  const last = Number(figure.querySelector(".time").max);
  const placeIn = (plot, place) => (place / last) * (plot.panel.frames - 1);
  const point = figure.querySelector(".handle")
    ? new DraggedPoint(figure, plots[0], data.panels[0].field && new Field(data.panels[0].field))
    : null;

  const draw = (place) => {
    for (const plot of plots) plot.draw(placeIn(plot, place), point && point.pathAt(placeIn(plot, place)));
  };
  const caption = (place) =>
    small ? `${Math.round((100 * place) / last)} % of the way` : data.panels[0].captions[Math.round(place)];
  if (point) point.start(0);
  let player = null;
  player = new Player(
    figure,
    (place) => {
      if (point) point.show(place, Boolean(player && player.running));
      draw(place);
    },
    caption,
  );
  if (point) {
    point.moved = () => draw(player.place);
    point.grabbed = () => player.running && player.pause();
    point.handle.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      player.toggle();
    });
  }

  const again = () => {
    for (const plot of plots) plot.resize();
    if (point) point.show(player.place);
    draw(player.place);
  };
  new ResizeObserver(again).observe(figure);
  choose(figure, data, (pair) => {
    data.pair = pair;
    if (point) point.start(player.place);
    again();
  });
}

// Which two columns are seen, where there are more; the same column twice would be a line.
function choose(figure, data, chosen) {
  const across = figure.querySelector(".across");
  const up = figure.querySelector(".up");
  if (!across) return;
  const change = (changed, other) => {
    if (changed.value === other.value) other.value = String((Number(changed.value) + 1) % data.names.length);
    chosen([Number(across.value), Number(up.value)]);
  };
  across.addEventListener("change", () => change(across, up));
  up.addEventListener("change", () => change(up, across));
}

document.documentElement.classList.add("scripted");
document.querySelectorAll("[data-motion]").forEach(alive);
