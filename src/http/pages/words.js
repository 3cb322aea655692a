// Formats numbers and creates elements. Unknown values are shown as unknown, never as 0.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const known = (value) => typeof value === "number";

export function count(value) {
  if (!known(value)) return "unknown";
  return Math.abs(value) >= 1e7 ? short.format(value) : whole.format(value);
}

/** A rate, with one decimal if it is below 10. */
export function rate(value) {
  if (!known(value)) return "unknown";
  return value > 0 && value < 10 ? value.toFixed(1) : count(Math.round(value));
}

export function ms(value) {
  if (!known(value)) return "unknown";
  if (value < 10) return `${+value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  return span(value / 1000);
}

export function span(seconds) {
  if (!known(seconds)) return "unknown";
  if (seconds < 10) return `${+seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

export const plain = (word) => String(word ?? "").replaceAll("_", " ");

export const $ = (id) => document.getElementById(id);

/** Creates an element. Strings become text, never markup. */
export function make(tag, properties = {}, ...inside) {
  const { data, aria, ...own } = properties;
  const made = Object.assign(document.createElement(tag), own);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(aria ?? {})) made.setAttribute(`aria-${name}`, value);
  made.append(...inside);
  return made;
}

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children of `parent` match `list`, reusing the elements whose keys are still in it. */
export function keep(parent, list, key, create, update) {
  const old = new Map(Array.from(parent.children, (child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const entry of list) {
    const name = String(key(entry));
    let child = old.get(name);
    if (child) old.delete(name);
    else {
      child = create(entry);
      child.dataset.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update?.(child, entry);
  }
  old.forEach((child) => child.remove());
}

/** Sets the widths of a bar's three parts, and its description. */
export function fillBar(bar, { stock, sold, held, free }) {
  const all = Math.max(stock, sold + held + free, 1);
  for (const [name, value] of Object.entries({ sold, held, free })) {
    const part = bar.querySelector(`.${name}`);
    part.style.width = `${(100 * value) / all}%`;
    part.hidden = value === 0;
  }
  bar.setAttribute("aria-label",
    `${count(sold)} sold, ${count(held)} held, ${count(free)} free, of ${count(stock)}`);
}
