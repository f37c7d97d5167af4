// The sliders: what they stand at in words, and the wish that they make together.

class Knobs {
  constructor(section, changed) {
    this.given = JSON.parse(section.dataset.given);
    const at = (id) => section.querySelector(`#${id}`);
    this.rows = at("rows");
    this.solver = at("solver");
    this.evaluations = at("evaluations");
    this.tolerance = at("tolerance");
    this.guidance = at("guidance");
    this.time = at("time-of-rows");
    this.asSeen = at("as-seen");
    this.seed = at("seed");
    this.conditions = this.given.conditions.map((_, k) => at(`condition-${k}`));
    Knobs.stops(this.rows, this.given.rows.length, this.given.first_rows);
    if (this.time) Knobs.stops(this.time, this.given.times.length, this.given.times.length - 1);
    if (this.evaluations) {
      const { evaluations, tolerances, own } = this.given;
      const usual = own && own.steps ? own.steps * (this.own ? this.own.evaluations : 1) : 20;
      Knobs.stops(this.evaluations, evaluations.length, Knobs.nearest(evaluations, usual));
      Knobs.stops(this.tolerance, tolerances.length, Knobs.nearest(tolerances, (own && own.tolerance) || 1e-4));
    }
    section.querySelector(".knobs").addEventListener("input", (event) => {
      // Who moves this slider wants the run's solver with another effort.
      const effort = event.target === this.evaluations || event.target === this.tolerance;
      if (effort && !this.chosen && this.own) this.solver.value = this.given.own.name;
      if (this.conditions.includes(event.target)) this.asSeen.checked = false;
      this.say();
      changed();
    });
    at("next-seed").addEventListener("click", () => {
      this.seed.value = String(this.seedNow + 1);
      changed();
    });
    this.say();
  }

  static stops(slider, count, first) {
    slider.max = String(count - 1);
    slider.value = String(first);
  }

  static nearest(stops, wanted) {
    const far = stops.map((stop) => Math.abs(Math.log(stop / wanted)));
    return far.indexOf(Math.min(...far));
  }

  get seedNow() {
    const asked = Math.floor(Number(this.seed.value));
    return Number.isFinite(asked) ? clamp(asked, 0, 2147483647) : 0;
  }

  // The run's own solver, where it can be chosen.
  get own() {
    return this.given.own && this.given.solvers[this.given.own.name];
  }

  get chosen() {
    return this.solver && this.solver.value ? this.given.solvers[this.solver.value] : null;
  }

  say() {
    const write = (slider, words) => {
      slider.parentElement.querySelector("output").textContent = words;
      slider.setAttribute("aria-valuetext", words);
    };
    write(this.rows, String(this.given.rows[Number(this.rows.value)]));
    if (this.solver) {
      const solver = this.chosen || this.own;
      this.evaluations.parentElement.hidden = Boolean(!solver || solver.adaptive);
      this.tolerance.parentElement.hidden = !(solver && solver.adaptive);
      const asked = this.given.evaluations[Number(this.evaluations.value)];
      const steps = Math.max(Math.floor(asked / (solver ? solver.evaluations : 1)), 1);
      const own = this.chosen ? "" : "as the run does";
      write(this.evaluations, own || `${asked}: ${steps} ${steps === 1 ? "step" : "steps"}`);
      write(this.tolerance, own || this.given.tolerances[Number(this.tolerance.value)].toExponential(0));
    }
    if (this.time) write(this.time, this.given.times[Number(this.time.value)]);
    if (this.guidance) {
      const weight = Number(this.guidance.value);
      write(this.guidance, weight ? `w = ${weight}` : "none");
    }
    this.conditions.forEach((control, k) => {
      control.parentElement.classList.toggle("idle", this.asSeen.checked);
      if (!this.given.conditions[k].labels) write(control, this.number(k));
    });
  }

  range(k) {
    const { low, high } = this.given.conditions[k];
    return high - low || 1;
  }

  // Where the slider of a number stands, to a hundredth of its range.
  number(k) {
    const exact = this.given.conditions[k].low + (Number(this.conditions[k].value) / 100) * this.range(k);
    return exact.toFixed(clamp(2 - Math.floor(Math.log10(this.range(k))), 0, 12));
  }

  // What both figures depend on.
  get law() {
    const wish = { seed: this.seedNow };
    if (this.guidance && Number(this.guidance.value)) wish.guidance = Number(this.guidance.value);
    if (this.asSeen && !this.asSeen.checked) {
      wish.condition = this.conditions.map((control, k) => {
        if (!this.given.conditions[k].labels) return Number(this.number(k));
        return control.value === "" ? null : Number(control.value);
      });
    }
    return wish;
  }

  get wish() {
    const wish = { ...this.law, rows: this.given.rows[Number(this.rows.value)] };
    if (this.time) wish.time = Number(this.time.value);
    const solver = this.chosen;
    if (!solver) return wish;
    wish.solver = this.solver.value;
    if (solver.adaptive) wish.tolerance = this.given.tolerances[Number(this.tolerance.value)];
    else wish.evaluations = this.given.evaluations[Number(this.evaluations.value)];
    return wish;
  }
}
