// The slider of time with its button. Arrow keys, Home and End are the slider's own; the space bar plays and pauses.

const SECONDS = 4; // from source to data
const STILL_STOPS = 8; // where motion is unwelcome: so many stops, and nothing in between
const STILL_SECONDS = 0.6; // each

class Player {
  // show(place) draws; caption(place) says where that is. A place is a number of frames, perhaps between two.
  constructor(figure, show, caption) {
    this.slider = figure.querySelector(".time");
    this.button = figure.querySelector(".play");
    this.output = figure.querySelector(".now");
    this.last = Number(this.slider.max);
    this.show = show;
    this.caption = caption;
    this.place = Number(this.slider.value);
    this.running = 0;
    this.still = window.matchMedia("(prefers-reduced-motion: reduce)");
    this.slider.addEventListener("input", () => {
      const asked = Number(this.slider.value);
      this.pause();
      this.move(asked);
    });
    this.button.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      this.toggle();
    });
    this.move(this.place);
  }

  move(place) {
    this.place = clamp(place, 0, this.last);
    this.slider.value = Math.round(this.place);
    const words = this.caption(this.place);
    this.slider.setAttribute("aria-valuetext", words);
    this.output.textContent = words;
    this.show(this.place);
  }

  toggle() {
    if (this.running) this.pause();
    else this.play();
  }

  play() {
    if (this.place >= this.last) this.move(0);
    this.button.textContent = "Pause";
    let before = performance.now();
    const step = (now) => {
      if (this.still.matches) {
        if (now - before >= 1000 * STILL_SECONDS) {
          before = now;
          this.move(Math.round((Math.floor((this.place / this.last) * STILL_STOPS + 1e-9) + 1) * this.last / STILL_STOPS));
        }
      } else {
        this.move(this.place + ((now - before) / (1000 * SECONDS)) * this.last);
        before = now;
      }
      if (this.place >= this.last) this.pause();
      else this.running = requestAnimationFrame(step);
    };
    this.running = requestAnimationFrame(step);
  }

  pause() {
    cancelAnimationFrame(this.running);
    this.running = 0;
    this.button.textContent = "Play";
    this.move(Math.round(this.place)); // on a frame, where a point may be taken hold of
  }
}
