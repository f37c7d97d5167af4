// Brings the figures of this page to life. Without a script the still pictures say the same.

function alive(figure) {
  const data = JSON.parse(figure.dataset.motion);
  for (const panel of data.panels) panel.frames = panel.captions.length;
  figure.hidden = false;
  if (data.kind === "pictures") livePictures(figure, data);
  else livePoints(figure, data);
}

// A place of the slider among the frames of a panel: beside one another they may have different numbers of them.
function placesOf(figure) {
  const last = Number(figure.querySelector(".time").max);
  return (panel, place) => (place / last) * (panel.frames - 1);
}

function captionOf(figure, data) {
  const last = Number(figure.querySelector(".time").max);
  if (data.panels.length > 1) return (place) => `${Math.round((100 * place) / last)} % of the way`;
  return (place) => data.panels[0].captions[Math.round(place)];
}

function livePictures(figure, data) {
  const canvases = [...figure.querySelectorAll("canvas")];
  const grids = data.panels.map((panel, k) => new PictureGrid(canvases[k], data, panel));
  const placeIn = placesOf(figure);
  const draw = (place) => grids.forEach((grid) => grid.draw(placeIn(grid.panel, place)));
  new Player(figure, draw, captionOf(figure, data));
}

function livePoints(figure, data) {
  if (data.real) data.real = coordinatesOf(data.real, data.low, data.high);
  const canvases = [...figure.querySelectorAll("canvas")];
  const plots = data.panels.map((panel, k) => {
    panel.states = coordinatesOf(panel.states, data.low, data.high);
    return new Plot(canvases[k], data, panel, data.panels.length > 1);
  });
  const placeIn = placesOf(figure);
  const point = figure.querySelector(".handle")
    ? new DraggedPoint(figure, plots[0], data.panels[0].field && new Field(data.panels[0].field))
    : null;

  const draw = (place) => {
    for (const plot of plots) plot.draw(placeIn(plot.panel, place), point && point.pathAt(place));
  };
  if (point) point.start(0);
  let player = null;
  player = new Player(
    figure,
    (place) => {
      if (point) point.show(place, Boolean(player && player.running));
      draw(place);
    },
    captionOf(figure, data),
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
