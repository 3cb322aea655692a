// Scrolling plots on canvas: lines over the last minutes.

/** Plots are this late, so that their right edge moves evenly between two events. */
const BEHIND_MS = 1_300;
/** Milliseconds between two frames. */
const FRAME_MS = 50;

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/** The smallest of 1, 2, 5, 10, 20, ... that is not below `value`. */
function roundUp(value) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return ten * [1, 2, 5, 10].find((step) => step * ten >= value * 0.999);
}

export class Plots {
  constructor() {
    this.points = [];
    this.plots = [];
    this.span = 60_000;
    this.clock = undefined;
    dark.addEventListener("change", () => this.recolour());
    let last = 0;
    const frame = (now) => {
      if (!still.matches && now - last >= FRAME_MS) {
        last = now;
        this.draw();
      }
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    addEventListener("resize", () => this.draw());
  }

  /** `lines`: [{ of: point => value or null, colour: custom property }]; `text`: value => label. */
  add(canvas, lines, text) {
    const plot = { canvas, lines, text, top: 0 };
    this.plots.push(plot);
    this.recolour();
    return plot;
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.grid = colour("--line");
    this.label = colour("--soft");
    for (const plot of this.plots) plot.colours = plot.lines.map((line) => colour(line.colour));
  }

  /** Estimates the server's clock from the time of an event. */
  hear(at_ms) {
    const offset = at_ms - performance.now();
    // The event with the shortest delay is the most exact. A changed clock is followed at once.
    const old = this.clock ?? offset;
    this.clock = Math.abs(offset - old) > 5_000 ? offset : Math.max(old - 1, offset);
  }

  draw() {
    if (document.hidden || this.clock === undefined) return;
    const right = this.clock + performance.now() - BEHIND_MS;
    const left = right - this.span;
    const visible = this.points.filter((point, n) => (this.points[n + 1] ?? point).at_ms >= left);
    for (const plot of this.plots) this.drawOne(plot, visible, left, right);
  }

  drawOne(plot, points, left, right) {
    const { canvas } = plot;
    const scale = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);

    let most = 0;
    for (const point of points) for (const { of } of plot.lines) most = Math.max(most, of(point) ?? 0);
    const top = roundUp(Math.max(most, plot.least ?? 1));
    plot.top = still.matches || !plot.top ? top : plot.top + (top - plot.top) * 0.18;

    const font = getComputedStyle(canvas).fontFamily;
    const above = 14;
    const below = 16;
    const x = (at) => ((at - left) / (right - left)) * width;
    const y = (value) => height - below - (value / plot.top) * (height - above - below);
    this.drawGrid(pen, plot, { width, height, top, x, y, left, right, font });
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, width, height);
    pen.clip();
    plot.lines.forEach(({ of }, n) => {
      drawLine(pen, points, of, { x, y, colour: plot.colours[n], fill: n === 0, foot: y(0) });
    });
    pen.restore();
  }

  drawGrid(pen, plot, { width, height, top, x, y, left, right, font }) {
    pen.font = `11px ${font}`;
    pen.strokeStyle = this.grid;
    pen.fillStyle = this.label;
    pen.lineWidth = 1;
    pen.beginPath();
    for (const value of [0, top / 2, top]) {
      const at = Math.round(y(value)) + 0.5;
      pen.moveTo(0, at);
      pen.lineTo(width, at);
    }
    pen.stroke();
    pen.textAlign = "left";
    pen.textBaseline = "bottom";
    pen.fillText(plot.text(top), 0, Math.round(y(top)) - 1);
    // Ticks at round times of day.
    const apart = ((right - left) * 64) / width;
    const step = 1_000 * ([10, 20, 30, 60, 120].find((s) => s * 1_000 >= apart) ?? 300);
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (let at = Math.ceil(left / step) * step; at < right; at += step) {
      const text = new Date(at).toLocaleTimeString([], { hour12: false });
      const half = pen.measureText(text).width / 2;
      if (x(at) - half >= 0 && x(at) + half <= width) pen.fillText(text, x(at), height - 12);
    }
  }
}

function drawLine(pen, points, of, { x, y, colour, fill, foot }) {
  // Unknown values leave a gap.
  const runs = [];
  let run = [];
  for (const point of points) {
    const value = of(point);
    const gap = run.length && point.at_ms - run.at(-1)[2] > 5_000;
    if ((typeof value !== "number" || gap) && run.length) {
      runs.push(run);
      run = [];
    }
    if (typeof value === "number") run.push([x(point.at_ms), y(value), point.at_ms]);
  }
  if (run.length) runs.push(run);
  for (const dots of runs) {
    const path = new Path2D();
    dots.forEach(([a, b], n) => (n ? path.lineTo(a, b) : path.moveTo(a, b)));
    if (fill) {
      const area = new Path2D(path);
      area.lineTo(dots.at(-1)[0], foot);
      area.lineTo(dots[0][0], foot);
      pen.globalAlpha = 0.12;
      pen.fillStyle = colour;
      pen.fill(area);
      pen.globalAlpha = 1;
    }
    pen.strokeStyle = colour;
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    pen.lineCap = "round";
    pen.stroke(path);
  }
}
